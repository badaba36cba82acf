"""What only the vLLM engine can get wrong: its processes, and a vLLM that is not there; and top-p beside torch's."""

import asyncio
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.support.engines import CASES, make_engine, make_model
from tsd.doctor.parity import differences
from tsd.errors import EngineError
from tsd.model.sampling import log_policy

pytestmark = pytest.mark.filterwarnings(
    # Importing vLLM touches names that torch 2.13 deprecates.
    r"ignore:`torch\.jit\.script_method` is deprecated:DeprecationWarning",
    r"ignore:`torch\.distributed\.reduce_op` is deprecated:FutureWarning",
    # vLLM's shutdown closes its sockets, and leaves their context to the garbage collector.
    "ignore:Unclosed context:ResourceWarning",
)


@pytest.fixture(autouse=True)
def leaves_no_garbage() -> Iterator[None]:
    """What vLLM leaves to the collector writes when it is collected, which is no business of a later test's loop."""
    yield
    gc.collect()


def vllm_processes() -> list[psutil.Process]:
    """Ours, without Python's own tracker of shared memory, which lives as long as we do."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if not any("resource_tracker" in word for word in child.cmdline())]


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_a_dead_engine_says_so_in_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    make_model(CASES[0], tmp_path)
    before = set(vllm_processes())
    async with make_engine("vllm", CASES[0], tmp_path) as engine:
        ours = set(vllm_processes()) - before
        assert ours
        await engine.expand((7, 8, 9), 4, 8)
        for process in ours:
            process.kill()
        for _ in range(2):
            with pytest.raises(EngineError, match=r"^vLLM does not generate: [^\n]+$"):
                await engine.sample((7, 8, 9), 4, 200)
    assert set(vllm_processes()) <= before
    vars(engine).clear()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["torch", pytest.param("vllm", marks=pytest.mark.vllm)])
async def test_top_p_draws_within_the_nucleus_and_logprobs_stay_the_whole_policys(kind: str, tmp_path: Path) -> None:
    case, top_p, state = CASES[0], 0.6, (7, 8, 9)
    policy = make_model(case, tmp_path)
    async with make_engine(kind, case, tmp_path, top_p=top_p) as engine:
        calls = await asyncio.gather(*(engine.sample(state, 50, 3) for _ in range(40)))
    steps = [step for call in calls for step in call]
    assert max(map(max, differences(policy, state, steps[:50], case.temperature))) <= 1e-4
    with torch.no_grad():
        chances = log_policy(policy(torch.tensor([state]))[0][0, -1], case.temperature).exp()
    order = chances.argsort(descending=True)
    num_kept = 1 + int((chances[order].cumsum(0) < top_p).sum())
    shares = chances[order[:num_kept]] / chances[order[:num_kept]].sum()
    tokens = np.array([step.tokens[0] for step in steps])
    assert set(tokens) <= set(order[:num_kept].tolist())
    for token, share in zip(order[:num_kept].tolist(), shares.tolist(), strict=True):
        assert abs((tokens == token).mean() - share) < 5 * np.sqrt(share * (1 - share) / len(tokens)) + 1e-3


async def test_a_missing_vllm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(CASES[0], tmp_path)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"^vLLM is not installed .*: pip install"):
        async with make_engine("vllm", CASES[0], tmp_path):
            raise AssertionError("it has started")


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    make_model(CASES[0], tmp_path)
    before = set(vllm_processes())
    start = asyncio.create_task(make_engine("vllm", CASES[0], tmp_path).__aenter__())
    while set(vllm_processes()) <= before:  # noqa: ASYNC110  a process that starts sets no event
        await asyncio.sleep(0.1)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert set(vllm_processes()) <= before


async def test_an_architecture_it_does_not_serve_is_named(tmp_path: Path) -> None:
    make_model(CASES[0], tmp_path)
    config = (tmp_path / "config.json").read_text().replace("Qwen2ForCausalLM", "OtherForCausalLM")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"is a OtherForCausalLM; tsd's vLLM engine serves Qwen2ForCausalLM"):
        async with make_engine("vllm", CASES[0], tmp_path):
            raise AssertionError("it has started")
