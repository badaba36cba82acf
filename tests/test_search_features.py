"""What each setting of the search does, one behaviour a test, on scripted engines."""

import asyncio
import gc
import math
from collections.abc import Callable, Sequence
from weakref import ref

import pytest
from msgspec.structs import replace

from tests.fakes import ScriptedEngine, VirtualClockLoop, step
from tests.test_search import check_counts, graded, plant
from tsd.config import SearchConfig
from tsd.search import Status, Tree, grow, record, resume, subtree
from tsd.types import Expansion, Grade, Position

CONFIG = SearchConfig(agents=1, simulations=8, max_depth=6, solutions=0, widen="never")


def wide(state: tuple[int, ...]) -> Expansion:
    """Four different steps from everywhere; the first is the best."""
    value = 0.8 if state[1:2] == (1,) else -0.2
    return Expansion(value, (step(1), step(2), step(3), step(4)))


def grown(tree: Tree, script: Callable[[tuple[int, ...]], Expansion], latency_s: float = 1.0) -> ScriptedEngine:
    engine = ScriptedEngine(script, latency_s)
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(grow(tree, engine))
    check_counts(tree)
    return engine


@pytest.mark.parametrize("agents", [1, 16])
def test_a_spent_state_is_sampled_again_until_every_step_was_drawn_twice(agents: int) -> None:
    answers = iter([(1, 2, 3, 4), (1, 2, 5, 5), (3, 4, 1, 1)])

    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.0, tuple(step(token, finish="end") for token in next(answers)))

    tree = plant(replace(CONFIG, widen="spent", agents=agents, simulations=50))
    engine = grown(tree, script)
    assert len(engine.expanded) == 3
    assert tree.root.closed
    assert tree.stop_reason() == "exhausted"
    assert sorted(child.num_drawn for child in tree.root.children) == [2, 2, 2, 2, 4]


def test_agents_that_waited_for_ends_do_not_count_them_again() -> None:
    def script(state: tuple[int, ...]) -> Expansion:
        return wide(state) if len(state) == 1 else Expansion(0.0, (step(5, finish="end"), step(6, finish="end")))

    tree = plant(replace(CONFIG, agents=16, simulations=100))
    engine = grown(tree, script)
    assert tree.stop_reason() == "exhausted"
    assert tree.num_simulations == tree.root.visits == len(engine.expanded) == 5


def test_a_path_the_task_calls_dead_ends_there() -> None:
    def read(tokens: Sequence[int]) -> Position:
        return Position(dead=sum(tokens) == 4)

    tree = Tree((7,), lambda tokens: graded(0.5), replace(CONFIG, prune_dead=True, simulations=100), read=read)
    engine = grown(tree, lambda state: Expansion(0.0, (step(1), step(2))))
    dead = [tree.response(one) for one in tree.root.walk() if one.status is Status.DEAD]
    assert dead
    assert all(sum(response) == 4 for response in dead)
    assert all(sum(state[1:]) != 4 for state in engine.expanded)


def test_a_path_that_the_task_calls_decided_ends_there_with_its_outcome() -> None:
    def read(tokens: Sequence[int]) -> Position:
        return Position(outcome=graded(-0.3) if sum(tokens) == 4 else None)

    tree = Tree((7,), lambda tokens: graded(0.5), replace(CONFIG, grade_decided=True, simulations=100), read=read)
    engine = grown(tree, lambda state: Expansion(0.0, (step(1), step(2))))
    decided = [one for one in tree.root.walk() if one.status is Status.TERMINAL]
    assert {(sum(tree.response(one)), one.end_value) for one in decided} == {(4, -0.3)}
    assert all(sum(state[1:]) != 4 for state in engine.expanded)


def test_a_tree_goes_the_moment_it_is_let_go() -> None:
    """No cycle of references keeps its nodes for the garbage collector."""
    tree = plant(replace(CONFIG, simulations=40))
    grown(tree, lambda state: Expansion(math.sin(sum(state)), (step(1), step(2))))
    nodes = [ref(one) for one in tree.root.walk()]
    gc.disable()
    try:
        del tree
        assert [one() for one in nodes] == [None] * len(nodes)
    finally:
        gc.enable()


def test_a_tree_stops_when_its_time_is_up_and_says_so() -> None:
    tree = plant(replace(CONFIG, agents=4, simulations=1000, time_limit_s=10.5, max_depth=50))
    engine = grown(tree, wide, latency_s=1.0)
    assert tree.stop_reason() == "seconds"
    assert 11 < len(engine.expanded) <= 44


def test_a_kept_subtree_goes_on_from_its_step_with_what_was_found_there() -> None:
    seen: list[tuple[int, ...]] = []

    def grade(tokens: Sequence[int]) -> Grade:
        seen.append(tuple(tokens))
        return graded(0.5)

    tree = Tree((7,), grade, replace(CONFIG, simulations=30, max_depth=8))
    grown(tree, lambda state: Expansion(0.1, (step(1), step(2), step(9, finish="end"))))
    child = next(one for one in tree.root.children if one.step and one.step.tokens == (2,))
    visits, below = child.visits, sum(1 for _ in child.walk())
    kept = subtree(tree, child, replace(CONFIG, simulations=visits + 20))
    assert kept.prompt == (7, 2)
    assert (kept.root.visits, kept.num_nodes, kept.root.depth) == (visits, below, 0)
    assert child not in tree.root.children
    grown(kept, lambda state: Expansion(0.1, (step(1), step(2), step(9, finish="end"))))
    assert kept.root.visits == visits + 20
    assert all(tokens[-1] == 9 for tokens in seen)
    assert any(tokens[:1] == (2,) and len(tokens) > 4 for tokens in seen), "graded as the whole response"
    with pytest.raises(ValueError, match="nothing follows a terminal step"):
        subtree(kept, next(one for one in kept.root.walk() if one.status is Status.TERMINAL), CONFIG)


def test_a_record_that_is_no_tree_is_refused() -> None:
    tree = plant(CONFIG)
    grown(tree, wide)
    saved = record(tree)
    broken = replace(saved, nodes=(*saved.nodes[:-1], replace(saved.nodes[-1], parent=10**6)))
    with pytest.raises(ValueError, match="names 1000000 as its parent"):
        resume(broken, tree.grade, CONFIG)
