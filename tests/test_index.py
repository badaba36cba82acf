"""Search by index: against a second, plain implementation, with many agents, and under faults."""

import asyncio
import math
import random
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.support.oracle import IndexOracle, oracle_index
from tsd.config import IndexConfig, SearchConfig
from tsd.engine.mock import CharCodec, MockEngine
from tsd.methods.index import ByIndex
from tsd.search import Budget, Calibration, Status, Tree, expected, plant, record, resume, search_by_index
from tsd.search.by_index import simulate
from tsd.search.calibration import Counts
from tsd.search.grow import grow
from tsd.search.index import Index, TrainingIndex
from tsd.tasks.countdown import Countdown
from tsd.types import NO_PARENT, Expansion, Grade, Step

LIMITS = SearchConfig(max_depth=4, max_step_tokens=3)
WAY = IndexConfig(agents=1, max_tokens=400, solutions=0)
END, STEP = 9, 8
CALIBRATION = Calibration(
    paths=Counts(100, 10, 700),
    strength=3.0,
    states={
        f"{depth} {centre}": Counts(10, 1 + abs(centre) / 3, 60.0 / depth)
        for depth in (1, 2, 3)
        for centre in range(-9, 10)
    },
)
BELIEF = (CALIBRATION.solve_rate, CALIBRATION.path_tokens, CALIBRATION.strength)
"""What is believed of a prompt: its chance, tokens, and strength."""


def weights(state: Sequence[int]) -> dict[int, float]:
    """A policy of four words, one of which ends a step and one the answer, by all that was written."""
    rng = random.Random(f"{list(state)}")
    drawn = {token: rng.random() ** 2 for token in (1, 2, STEP, END)}
    return {token: weight / sum(drawn.values()) for token, weight in drawn.items()}


def value(state: Sequence[int]) -> float:
    return random.Random(f"v{list(state)}").uniform(-0.9, 0.9)


class Likeliest:
    """Writes the likeliest token each time, the first one not excluded: all that a search asks is then decided."""

    version = 0

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        self.asked.append((tuple(state), tuple(sorted(excluded))))
        await asyncio.sleep(self.latency_s)
        return self.answer(tuple(state), max_tokens, excluded)

    @staticmethod
    def answer(state: tuple[int, ...], max_tokens: int, excluded: Sequence[int]) -> Expansion:
        tokens, logprobs, values = list[int](), list[float](), list[float]()
        while len(tokens) < max_tokens and not (tokens and tokens[-1] in (STEP, END)):
            chances = weights((*state, *tokens))
            allowed = [token for token in chances if tokens or token not in excluded]
            token = max(allowed, key=chances.__getitem__)
            values.append(value((*state, *tokens)))
            tokens.append(token)
            logprobs.append(math.log(chances[token]))
        finish: Any = "step" if tokens[-1] == STEP else "end" if tokens[-1] == END else "length"
        return Expansion(value(state), (Step(tuple(tokens), logprobs, values, finish, 0),))


def grade(tokens: Sequence[int]) -> Grade:
    exact = random.Random(f"g{list(tokens)}").random() < 0.2
    return Grade(1.0 if exact else -0.5, exact, True)


def make_tree(seed: int = 0, limits: SearchConfig = LIMITS) -> Tree:
    return Tree((7, seed), grade, limits, seed=seed)


async def grown(tree: Tree, engine: Likeliest, way: IndexConfig = WAY) -> str:
    return await search_by_index(tree, engine, way, CALIBRATION)  # type: ignore[arg-type]


class TrainingRule(TrainingIndex):
    """The rule for training, without a first path that is run to its end."""

    runs_first_whole = False


@pytest.mark.parametrize("rule", [Index, TrainingRule])
@pytest.mark.parametrize("seed", range(12))
async def test_one_agent_asks_what_a_plain_implementation_asks_call_by_call(seed: int, rule: type[Index]) -> None:
    engine, tree = Likeliest(), make_tree(seed)
    await search_by_index(tree, engine, WAY, CALIBRATION, rule=rule)  # type: ignore[arg-type]
    asked = oracle_index(
        (7, seed),
        Likeliest.answer,
        lambda tokens: grade(tokens).exact,
        IndexOracle(CALIBRATION.judge, BELIEF, seed, training=rule is TrainingRule),
        budget=400,
        max_depth=4,
        max_step_tokens=3,
        max_path_tokens=200,
    )
    assert len(asked) > 30
    assert engine.asked == asked


@pytest.mark.parametrize("agents", [1, 4, 16])
async def test_no_step_is_sampled_twice_whatever_the_number_of_agents(agents: int) -> None:
    tree = make_tree()
    reason = await grown(tree, Likeliest(latency_s=0.001), replace(WAY, agents=agents, max_tokens=2000))
    assert reason in ("tokens", "exhausted")
    assert tree.num_duplicates == 0
    responses = [tree.response(node) for node in tree.root.walk()]
    assert len(responses) == len(set(responses)) == tree.num_nodes
    assert all(node.in_flight == 0 for node in tree.root.walk())


async def test_tokens_that_were_known_are_not_counted_as_generated() -> None:
    tree = make_tree()
    generated = 0

    class Counting(Likeliest):
        async def expand(
            self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
        ) -> Expansion:
            nonlocal generated
            expansion = await super().expand(state, num_samples, max_tokens, excluded)
            generated += len(expansion.steps[0].tokens)
            return expansion

    await grown(tree, Counting())
    assert tree.num_generated == generated
    assert generated < sum(len(node.step.tokens) for node in tree.root.walk() if node.step)


async def test_few_agents_work_on_a_tree_that_has_cost_little() -> None:
    most: dict[bool, int] = {True: 0, False: 0}
    tree, num_under_way = make_tree(), 0

    class Watching(Likeliest):
        async def expand(
            self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
        ) -> Expansion:
            nonlocal num_under_way
            cheap, num_under_way = tree.num_generated < 100, num_under_way + 1
            most[cheap] = max(most[cheap], num_under_way)
            try:
                return await super().expand(state, num_samples, max_tokens, excluded)
            finally:
                num_under_way -= 1

    await grown(tree, Watching(latency_s=0.001), replace(WAY, agents=16, max_tokens=3000))
    assert most[True] <= 4
    assert most[False] > 2 * most[True]


async def test_a_tree_with_nothing_new_left_to_sample_is_exhausted() -> None:
    tree = make_tree(limits=replace(LIMITS, max_depth=1, max_step_tokens=2))
    assert await grown(tree, Likeliest(), replace(WAY, max_tokens=100_000)) == "exhausted"
    assert {tree.response(node) for node in tree.root.make_children()} == {
        (a, b) if a not in (STEP, END) else (a,) for a in (1, 2, STEP, END) for b in (1, 2, STEP, END)
    }


async def test_the_first_path_of_a_tree_that_teaches_is_run_to_its_end() -> None:
    calibration = Calibration()
    for seed in range(20):
        before = calibration.paths.num_paths
        tree, way = make_tree(seed), replace(WAY, max_tokens=1)
        await search_by_index(tree, Likeliest(), way, calibration, rule=TrainingIndex)  # type: ignore[arg-type]
        assert any(node.status is not Status.OPEN for node in tree.root.walk()), "it ended"
        assert calibration.paths.num_paths == pytest.approx(before * 0.999 + 1)


async def test_errors_and_cancellations_leave_nothing_under_way() -> None:
    rng = random.Random(0)
    for seed in range(30):
        tree = make_tree(seed)
        tree.budget = Budget(max_tokens=3000)
        index = Index(tree.root, CALIBRATION, seed=seed)

        class Failing(Likeliest):
            async def expand(
                self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
            ) -> Expansion:
                if rng.random() < 0.05:
                    raise OSError("the engine is gone")
                return await super().expand(state, num_samples, max_tokens, excluded)

        engine: Any = Failing(latency_s=0.0001)
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            await grow(tree, partial(simulate, tree, engine, index), num_agents=8)
        assert index.num_under_way == 0
        assert all(node.in_flight == 0 for node in tree.root.walk())
        assert all(not prospect.unsampled.taken for prospect in index.prospects.values())


async def test_a_saved_tree_goes_on_without_sampling_what_it_knows() -> None:
    tree, way = make_tree(), replace(WAY, max_tokens=800)
    await grown(tree, Likeliest())
    again = resume(record(tree), make_tree())
    num_open = sum(node.status is Status.OPEN for node in tree.root.walk())
    assert len(Index(again.root, CALIBRATION, seed=0).prospects) == num_open
    await grown(again, Likeliest(), way)
    assert again.num_nodes > tree.num_nodes
    assert again.num_duplicates == 0


async def test_a_harvest_weighs_steps_by_the_policy_and_states_by_what_is_below() -> None:
    tree, way, known = make_tree(), replace(WAY, max_tokens=100), deepcopy(CALIBRATION)
    await search_by_index(tree, Likeliest(), way, known, rule=TrainingIndex)  # type: ignore[arg-type]
    whole = expected(tree)
    ends = whole.lengths.cumsum()
    chances = [math.exp(part.sum()) for part in np.split(whole.logprobs, ends[:-1])]
    reach = [1.0] * len(ends)
    for i, parent in enumerate(whole.parents):
        reach[i] = (1.0 if parent == NO_PARENT else reach[parent]) * chances[i]
        assert whole.visits[i] == max(1, round(100 * reach[i]))
    for i, end in enumerate(ends):
        if below := [j for j, parent in enumerate(whole.parents) if parent == i]:
            rest = max(0.0, 1 - sum(chances[j] for j in below)) * whole.values[end - 1]
            assert whole.q[i] == pytest.approx(sum(chances[j] * whole.q[j] for j in below) + rest)


async def test_the_mock_engine_is_searched_without_repeats_and_solves_more_than_it_samples() -> None:
    task, codec = Countdown(), CharCodec()
    way = IndexConfig(agents=1, max_tokens=600, solutions=1)
    # What the mock engine's V is worth: 0.5 where the target can be reached.
    states = {f"{depth} {5 * sign}": Counts(10, 4 + 4 * sign, 300) for depth in (1, 2, 3) for sign in (-1, 1)}
    calibration, solved = Calibration(strength=3.0, states=states), 0
    for seed, problem in enumerate(task.problems("validation", 20, 0)):
        tree = plant(problem, task, codec, "compact", SearchConfig(), seed=seed)
        await search_by_index(tree, MockEngine(solve_rate=0.2, seed=seed), way, calibration)
        assert tree.num_duplicates == 0
        solved += tree.solved
    assert solved >= 15


async def test_a_problem_is_given_up_where_nothing_promises_enough_of_what_a_new_one_does() -> None:
    costs = []
    for give_up in (0.0, 0.3, 1.0):
        tree = make_tree()
        reason = await grown(tree, Likeliest(), replace(WAY, max_tokens=2000, give_up=give_up))
        costs.append(tree.num_generated)
        assert reason == ("given up" if give_up else "tokens")
        index = Index(tree.root, CALIBRATION, seed=0, give_up=give_up)
        assert (index.best() is None) == (give_up > 0)
    assert costs[0] >= 2000 > costs[1] > costs[2]


def test_a_prompt_promises_less_once_its_common_first_steps_are_known() -> None:
    """Else the policy's slips would be sampled of problems that are all alike, whose hope no failure lowers."""
    alike = replace(CALIBRATION, strength=1e9)
    index = Index(make_tree().root, alike, seed=0)
    new = index(index.root)
    for token, (known, left) in enumerate(((0.3, 0.7), (0.2, 0.5), (0.25, 0.25), (0.2, 0.05))):
        index.root.unsampled.add(Step((token,), (math.log(known),), (0.0,), "step", 0))
        assert index(index.root) == pytest.approx(new * min(1.0, 2 * left))


async def test_trees_that_are_learned_from_are_searched_by_the_rule_for_training() -> None:
    engine, tree, calibration = Likeliest(), make_tree(), deepcopy(CALIBRATION)
    await ByIndex(WAY, calibration).collect(tree, engine)  # type: ignore[arg-type]
    other = Likeliest()
    known = deepcopy(CALIBRATION)
    await search_by_index(make_tree(), other, WAY, known, rule=TrainingIndex)  # type: ignore[arg-type]
    assert engine.asked == other.asked
