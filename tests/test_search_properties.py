"""Search on random games, with random faults: what must hold whatever happens, and what a second search says."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.fakes import ScriptedEngine, VirtualClockLoop, step
from tests.support.oracle import PuctOracle, oracle
from tests.support.searching import check_counts, run_search
from tsd.config import PuctConfig, SearchConfig
from tsd.search import Budget, Status, Tree, record, resume, tree_hash
from tsd.search.puct import simulate
from tsd.types import Expansion, Grade

LIMITS = SearchConfig(max_depth=5)
BASE = PuctConfig(simulations=60, solutions=0)


def game(seed: int, width: int = 4, end_share: float = 0.2) -> Any:
    """A random tree of steps, the same for the same seed: `width` samples from each state, some of them equal."""

    def script(state: tuple[int, ...]) -> Expansion:
        rng = random.Random(f"{seed} {state}")
        steps = [
            step(
                rng.randrange(5),
                finish="end" if rng.random() < end_share else "step",
                logprob=-rng.random() - 0.1,
                value=rng.uniform(-1, 1),
            )
            for _ in range(width)
        ]
        same = {one.tokens: one for one in steps}  # the same tokens end the same way
        return Expansion(rng.uniform(-1, 1), tuple(same[one.tokens] for one in steps))

    return script


def grade_of(seed: int) -> Any:
    def grade(tokens: Sequence[int]) -> Grade:
        reward = random.Random(f"grade {seed} {tuple(tokens)}").uniform(-1, 0.99)
        return Grade(reward, False, True)

    return grade


def make_tree(seed: int, limits: SearchConfig = LIMITS) -> Tree:
    return Tree((7,), grade_of(seed), limits)


def grown(tree: Tree, way: PuctConfig, seed: int, end_share: float = 0.2) -> str:
    return run_search(tree, ScriptedEngine(game(seed, end_share=end_share), latency_s=1.0), way)


@given(st.integers(0, 10**6), st.integers(1, 80), st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0.0, 0.2]))
@settings(max_examples=60, deadline=None)
def test_one_agent_equals_a_search_written_separately(seed: int, simulations: int, c: float, end_share: float) -> None:
    way = replace(BASE, agents=1, simulations=simulations, c_puct=c)
    tree = make_tree(seed)
    grown(tree, way, seed, end_share)
    plain = PuctOracle(
        (7,), game(seed, end_share=end_share), lambda tokens: grade_of(seed)(tokens).reward, c, LIMITS.max_depth
    )
    expected = oracle(plain, simulations)
    found = {tree.response(node): (node.visits, node.q) for node in tree.root.walk() if node.visits}
    assert found.keys() == expected.keys()
    for state, (visits, q) in expected.items():
        assert found[state][0] == visits
        assert found[state][1] == pytest.approx(q)


ways = st.builds(
    lambda **changes: replace(BASE, **changes),
    agents=st.sampled_from([1, 3, 16]),
    simulations=st.integers(1, 120),
    virtual_loss=st.sampled_from([0.0, 1.0]),
    prior=st.sampled_from(["multiplicity", "softmax", "length-normalised"]),
)


@given(st.integers(0, 10**6), ways)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_counts_add_up_under_every_setting_and_the_same_seed_gives_the_same_tree(seed: int, way: PuctConfig) -> None:
    trees = [make_tree(seed) for _ in range(2)]
    for tree in trees:
        grown(tree, way, seed)
        check_counts(tree)
        assert tree.num_simulations <= way.simulations
        assert tree.root.visits == tree.num_simulations
        for node in tree.root.walk():
            assert -1.0 - 1e-9 <= node.q <= 1.0 + 1e-9
            if node.make_children():
                assert sum(child.prior for child in node.make_children()) == pytest.approx(1.0)
    assert tree_hash(trees[0]) == tree_hash(trees[1])


@given(st.integers(0, 10**6), ways)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_saved_tree_is_the_same_when_it_is_read_back(seed: int, way: PuctConfig) -> None:
    tree = make_tree(seed)
    grown(tree, way, seed)
    again = resume(record(tree), make_tree(seed))
    assert tree_hash(again) == tree_hash(tree)
    assert record(again) == record(tree)
    grown(again, way, seed)  # closes what has nothing left below it; its budget is spent
    assert [node.closed for node in again.root.walk()] == [node.closed for node in tree.root.walk()]


def test_a_resumed_tree_grows_on_as_if_it_had_never_stopped() -> None:
    limits, way = replace(LIMITS, max_depth=30), replace(BASE, agents=1, simulations=120)
    whole, half = make_tree(3, limits), make_tree(3, limits)
    grown(whole, way, 3, end_share=0.05)
    grown(half, replace(way, simulations=50), 3, end_share=0.05)
    rest = resume(record(half), make_tree(3, limits))
    grown(rest, way, 3, end_share=0.05)
    assert rest.num_simulations == 120
    assert tree_hash(rest) == tree_hash(whole)


class Chaos:
    """An engine that fails, or has its callers cancelled, at random moments, and counts what it was asked for."""

    def __init__(self, seed: int) -> None:
        self.rng, self.script = random.Random(seed), game(seed, end_share=0.05)
        self.num_faults = self.num_open = self.num_answers = 0

    async def expand(self, state: Sequence[int], num_samples: int, max_tokens: int) -> Expansion:
        self.num_open += 1
        try:
            await asyncio.sleep(self.rng.random())
            if self.rng.random() < 0.15:
                self.num_faults += 1
                raise RuntimeError("engine fault")
            self.num_answers += 1
            answer: Expansion = self.script(tuple(state))
            return answer
        finally:
            self.num_open -= 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("virtual_loss", [0.0, 1.0])
@pytest.mark.parametrize("prior", ["multiplicity", "softmax"])
def test_thousands_of_cancellations_and_engine_errors_lose_and_double_nothing(virtual_loss: float, prior: Any) -> None:
    """The figure of tsd/docs/results.md: 10,000 faults over 200 trees, in four parts of 50 trees."""
    num_faults = 0

    async def agent(tree: Tree, engine: Chaos, way: PuctConfig) -> None:
        nonlocal num_faults
        while tree.begin():
            running = asyncio.ensure_future(simulate(tree, engine, way))  # type: ignore[arg-type]
            if engine.rng.random() < 0.2:
                asyncio.get_running_loop().call_later(engine.rng.random(), running.cancel)
            try:
                await running
            except RuntimeError:
                num_faults += 1
            except asyncio.CancelledError:
                num_faults += 1
            else:
                completed.append(1)

    for seed in range(50):
        completed: list[int] = []
        way = replace(BASE, agents=16, virtual_loss=virtual_loss, prior=prior)
        tree, engine = make_tree(seed, replace(LIMITS, max_depth=30)), Chaos(seed)
        tree.budget = Budget(simulations=250)

        async def run(tree: Tree = tree, engine: Chaos = engine, way: PuctConfig = way) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(16):
                    group.create_task(agent(tree, engine, way))

        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.run(run())
        check_counts(tree)
        assert tree.root.visits == len(completed), "a backup was lost or doubled"
        assert engine.num_open == tree.num_expanding == 0, "a request leaked"
        assert tree.num_expansions == tree.root.visits, "an expansion that counts for nothing"
        assert all(node.status is Status.OPEN for node in tree.root.walk() if node.made)
        assert not tree._arrivals
    print(f"\n{num_faults} faults over 50 trees (virtual loss {virtual_loss}, prior {prior})")
    assert num_faults >= 2_500
