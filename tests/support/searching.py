"""Trees over scripted engines, and what holds in any of them at rest."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.fakes import ScriptedEngine, VirtualClockLoop
from tsd.config import PuctConfig, SearchConfig
from tsd.search import Status, Tree, search_by_puct
from tsd.types import Expansion, Grade

LIMITS = SearchConfig(max_depth=6)
ALONE = PuctConfig(agents=1, simulations=8, solutions=0)


def make_grade(reward: float) -> Grade:
    return Grade(reward, reward == 1.0, True)


def make_tree(limits: SearchConfig = LIMITS, reward: float = 0.5) -> Tree:
    return Tree((7,), lambda tokens: make_grade(reward), limits)


def run_search(tree: Tree, engine: ScriptedEngine, way: PuctConfig = ALONE) -> str:
    """On a clock that jumps; why it ended."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(search_by_puct(tree, engine, way))


def run_script(
    tree: Tree, script: Callable[[tuple[int, ...]], Expansion], way: PuctConfig = ALONE, latency_s: float = 1.0
) -> ScriptedEngine:
    """On an engine that answers by a script; the engine, once the tree is at rest and its counts add up."""
    engine = ScriptedEngine(script, latency_s)
    run_search(tree, engine, way)
    check_counts(tree)
    return engine


def check_counts(tree: Tree) -> None:
    """What holds in any tree at rest, whatever happened."""
    for node in tree.root.walk():
        assert node.in_flight == 0
        assert not node.expanding
        below = sum(child.visits for child in node.make_children())
        assert node.visits >= below
        if node.status is Status.OPEN and node.make_children():
            assert node.visits == below + 1, "its own evaluation counts once; every other visit went on to a child"
        assert abs(node.value_sum) <= node.visits + 1e-9
        if node.visits:
            assert node.mean == pytest.approx(node.value_sum / node.visits)
