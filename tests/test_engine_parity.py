"""Every engine that runs a model does the same, and what Hugging Face does: before, after and during weight updates."""

import asyncio
import gc
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from tests.support.engines import CASES, Served, make_engine, make_model, randomise
from tsd.engine.stops import Stops
from tsd.errors import EngineError, WeightsError
from tsd.model.text import HfCodec
from tsd.transport.deltas import encode_update
from tsd.transport.replica import Replica
from tsd.types import WeightUpdate

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),  # vLLM takes half a minute to start, more on a busy machine.
    # Importing vLLM touches names that torch 2.13 deprecates.
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch\.distributed\.reduce_op` is deprecated:FutureWarning"),
]
TOLERANCE = 1e-4
ENGINES = [
    pytest.param((kind, case), id=f"{kind}-{case.name}", marks=[pytest.mark.vllm] if kind == "vllm" else [])
    for kind, case in product(("torch", "vllm"), CASES)
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def served(request: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """One engine for all tests of a case; each leaves it usable, with `served.policy` its weights' twin."""
    kind, case = request.param
    directory = tmp_path_factory.mktemp(case.name)
    policy = make_model(case, directory)
    async with make_engine(kind, case, directory) as engine:
        yield Served(kind, case, engine, policy, HfCodec(directory))
    gc.collect()  # what vLLM leaves writes when it is collected


async def check_parity(served: Served, what: str, num_prompts: int = 50) -> None:
    prompts = served.prompts(num_prompts)
    expansions = await asyncio.gather(*(served.engine.expand(prompt, 4, 24) for prompt in prompts))
    differences = [served.differences(p, e.steps) for p, e in zip(prompts, expansions, strict=True)]
    logprobs, values = (max(column) for column in zip(*differences, strict=True))
    print(f"\n{served.kind} {served.case.name} {what}: logprobs differ by {logprobs:.1e}, values by {values:.1e}")
    assert max(logprobs, values) <= TOLERANCE
    for expansion in expansions:
        assert len(expansion.steps) == 4
        assert all(abs(step.values[0] - expansion.value) <= TOLERANCE for step in expansion.steps)
        assert {step.version for step in expansion.steps} == {served.engine.version}


async def test_logprobs_and_values_equal_hugging_face_before_and_after_updates(served: Served) -> None:
    assert served.engine.version == 0
    await check_parity(served, "as loaded from disk")
    for version in (1, 2):
        await served.update(seed=version)
        assert served.engine.version == version
        await check_parity(served, f"after update {version}")


@pytest.mark.parametrize("stops_at_step", [True, False])
async def test_steps_end_where_the_text_says(served: Served, stops_at_step: bool) -> None:
    stops = Stops(served.codec.encode_text, served.codec.decode, served.codec.eos_ids())
    generate = (lambda state: expand(served, state)) if stops_at_step else (lambda s: served.engine.sample(s, 4, 40))
    seen = set()
    for steps in await asyncio.gather(*(generate(state) for state in served.prompts(80, num_tokens=4))):
        for step in steps:
            finishes = [stops.finish(step.tokens[: i + 1], stops_at_step) for i in range(len(step.tokens))]
            assert finishes[:-1] == [None] * (len(step.tokens) - 1)
            assert step.finish == (finishes[-1] or "length")
            assert step.finish != "length" or len(step.tokens) == 40
            seen.add(step.finish)
    assert seen == ({"step", "end", "length"} if stops_at_step else {"end", "length"})


async def expand(served: Served, state: tuple[int, ...]) -> Any:
    return (await served.engine.expand(state, 4, 40)).steps


async def test_samples_follow_the_policy(served: Served) -> None:
    """First tokens are drawn with the probabilities that their logprobs say."""
    state = served.prompts(1, seed=7)[0]
    calls = await asyncio.gather(*(served.engine.sample(state, 50, 1) for _ in range(40)))
    steps = [step for call in calls for step in call]
    tokens = np.array([step.tokens[0] for step in steps])
    chances = {step.tokens[0]: np.exp(step.logprobs[0]) for step in steps}
    for token, chance in chances.items():
        deviation = np.sqrt(chance * (1 - chance) / len(tokens))
        assert abs((tokens == token).mean() - chance) < 5 * deviation + 1e-3


async def test_a_load_during_generation_loses_no_request(served: Served) -> None:
    before = served.engine.version
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(served.engine.sample(p, 4, 200)) for p in served.prompts(32)]
        for seed in (11, 12):
            await asyncio.sleep(0.05)
            await served.update(seed)
    assert all(len(call.result()) == 4 for call in calls)
    versions = {step.version for call in calls for step in call.result()}
    assert versions <= set(range(before, served.engine.version + 1))
    await check_parity(served, "after loads in full flight")


async def test_the_prefix_cache_is_never_older_than_the_weights(served: Served) -> None:
    prompt = served.prompts(1, num_tokens=150, seed=5)[0]
    for seed in (21, 22, 23):
        under_way = asyncio.create_task(served.engine.sample(prompt, 4, 90))
        for _ in range(2):  # the second finds the first's keys and values
            steps = (await served.engine.expand(prompt, 4, 8)).steps
            assert max(served.differences(prompt, steps)) <= TOLERANCE
        await served.update(seed)
        await under_way
    steps = (await served.engine.expand(prompt, 4, 8)).steps
    assert max(served.differences(prompt, steps)) <= TOLERANCE


async def test_a_cancelled_call_leaves_the_engine_and_other_calls_alone(served: Served) -> None:
    prompts = served.prompts(40, seed=3)
    calls = [asyncio.create_task(served.engine.sample(prompt, 4, 200)) for prompt in prompts]
    await asyncio.sleep(0.1)
    for call in calls[::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, tuple) and len(result) == 4 for result in results[1::2])
    await check_parity(served, "after cancelled calls", num_prompts=8)


async def test_a_sample_begins_with_no_excluded_token_and_its_logprobs_are_the_policys(served: Served) -> None:
    prompts, rows = served.prompts(8, seed=5), served.case.num_rows
    for prompt in prompts:
        allowed = {served.policy.causal.config.vocab_size - 1 - i for i in range(3)} if rows > 30 else {5, 7}
        excluded = [token for token in range(rows) if token not in allowed]
        expansion = await served.engine.expand(prompt, 4, 12, excluded)
        assert {step.tokens[0] for step in expansion.steps} <= allowed
        assert max(served.differences(prompt, expansion.steps)) <= TOLERANCE


async def test_a_cancelled_load_is_whole_or_not_at_all(served: Served) -> None:
    update = served.policy.weights(served.engine.version + 1)  # the same weights: either outcome keeps the twin right
    load = asyncio.create_task(served.engine.load(update))
    await asyncio.sleep(0)
    load.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(load, return_exceptions=True)
        await check_parity(served, "after a cancelled load", num_prompts=8)


async def test_weights_come_from_a_replica_which_may_change_afterwards(served: Served) -> None:
    policy, version = served.policy, served.engine.version
    with await asyncio.to_thread(Replica) as replica:
        for number in (version + 1, version + 2):
            randomise(policy, seed=number)
            update = await asyncio.to_thread(replica.take, [encode_update(policy.weights(number)).frames])
            await served.engine.load(update)
            for tensor in update.tensors.values():
                tensor[...] = 0
            assert served.engine.version == number
            await check_parity(served, "after an update of a replica", num_prompts=8)


async def test_weights_of_another_model_are_refused_and_the_old_ones_stay(served: Served) -> None:
    version, good = served.engine.version, served.policy.weights(99).tensors
    first, second = list(good)[:2]
    wrong = {
        "one is missing": {name: tensor for name, tensor in good.items() if name != first},
        "the head is missing": {name: tensor for name, tensor in good.items() if "value_head" not in name},
        "one too many": good | {"model.other.weight": good[first]},
        "another shape": good | {second: good[second][..., :-1]},
    }
    for what, tensors in wrong.items():
        damaged = {name: tensor + 1 for name, tensor in tensors.items()}
        with pytest.raises(WeightsError, match=r"[16] tensors differ"):
            await served.engine.load(WeightUpdate(99, damaged))
        assert served.engine.version == version, what
    await check_parity(served, "after wrong updates", num_prompts=8)


async def test_a_state_too_long_is_refused_in_one_line(served: Served) -> None:
    for state in ((), (7,) * 256):
        with pytest.raises(EngineError, match=r"see engine\.max_model_tokens"):
            await served.engine.expand(state, 4, 8)
    (step,) = (await served.engine.sample((7,) * 250, 1, 100),)[0]
    assert len(step.tokens) <= 6
