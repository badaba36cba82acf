"""Search by whole paths: every simulation ends at an end, and states are sampled as often as they are worth it."""

import asyncio
import math
import random

import pytest
from msgspec.structs import replace

from tests.fakes import VirtualClockLoop
from tests.test_search import countdown_tree
from tsd.config import SearchConfig
from tsd.engine.mock import MockEngine
from tsd.search import Status, Tree, grow, record, resume, tree_hash
from tsd.tasks.countdown import make_problem

PROBLEM = make_problem((5, 13, 5, 9), 31)
BASE = SearchConfig(simulations=100, rollout=True, solutions=0)


def grown(config: SearchConfig, seed: int = 0, solve_rate: float = 0.3) -> Tree:
    tree = countdown_tree(PROBLEM, config)
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(grow(tree, MockEngine(solve_rate=solve_rate, latency_s=1.0, seed=seed)))
    return tree


@pytest.mark.parametrize("agents", [1, 16])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_every_simulation_ends_at_an_end_and_its_reward_counts_once_on_its_way(agents: int, power: float) -> None:
    tree = grown(replace(BASE, agents=agents, widen_power=power))
    nodes = list(tree.root.walk())
    ends = [node for node in nodes if node.status is not Status.OPEN]
    assert sum(end.visits for end in ends) == tree.root.visits == tree.num_simulations > 1
    assert tree.root.value_sum == pytest.approx(sum(end.visits * end.end_value for end in ends))
    for node in nodes:
        assert node.in_flight == 0
        assert not node.children or node.visits == sum(child.visits for child in node.children)
        assert node.num_sampled == sum(child.num_drawn for child in node.children)


def test_a_state_is_sampled_as_often_as_its_visits_allow() -> None:
    tree = grown(replace(BASE, agents=1, widen_scale=1.5, widen_power=0.5))
    for node in tree.root.walk():
        # Past that only where all that is known below is closed.
        closed = all(child.closed or child.spent for child in node.children)
        assert closed or node.num_sampled <= math.ceil(1.5 * math.sqrt(node.visits))


def test_with_a_power_of_1_every_path_is_sampled_from_the_root_on() -> None:
    tree = grown(replace(BASE, widen_power=1.0))
    assert tree.root.num_sampled == tree.num_simulations == 100


def test_agents_do_not_wait_for_each_other() -> None:
    assert grown(replace(BASE, agents=16)).num_collisions == 0


def test_the_same_seed_grows_the_same_tree_and_a_saved_one_goes_on() -> None:
    first, second = grown(BASE), grown(BASE)
    assert tree_hash(first) == tree_hash(second)
    again = resume(record(first), first.grade, BASE)
    assert tree_hash(again) == tree_hash(first)
    assert [n.num_sampled for n in again.root.walk()] == [n.num_sampled for n in first.root.walk()]


async def test_a_cancelled_search_leaves_no_count_behind() -> None:
    tree, rng = countdown_tree(PROBLEM, replace(BASE, simulations=10_000)), random.Random(0)
    for _ in range(20):
        growing = asyncio.create_task(grow(tree, MockEngine(solve_rate=0.3, latency_s=0.0)))
        for _ in range(rng.randrange(40)):
            await asyncio.sleep(0)
        growing.cancel()
        await asyncio.wait({growing})
        assert growing.cancelled() or growing.done()
        for node in tree.root.walk():
            assert node.in_flight == 0
            assert node.num_sampled == sum(child.num_drawn for child in node.children)
