"""What a tree does apart from choosing: what waits, what is let go, what is saved and gone on with."""

import gc
import math
from weakref import ref

import pytest
from msgspec.structs import replace

from tests.support.fakes import step
from tests.support.searching import ALONE, make_tree, run_script
from tsd.search import record, resume
from tsd.types import Expansion


def wide(state: tuple[int, ...]) -> Expansion:
    """Four different steps from everywhere; the first is the best."""
    value = 0.8 if state[1:2] == (1,) else -0.2
    return Expansion(value, (step(1), step(2), step(3), step(4)))


def test_agents_that_waited_for_ends_do_not_count_them_again() -> None:
    def script(state: tuple[int, ...]) -> Expansion:
        return wide(state) if len(state) == 1 else Expansion(0.0, (step(5, finish="end"), step(6, finish="end")))

    way = replace(ALONE, agents=16, simulations=100)
    tree = make_tree()
    engine = run_script(tree, script, way)
    assert tree.stop_reason() == "exhausted"
    assert tree.num_simulations == tree.root.visits == len(engine.expanded) == 5


def test_a_tree_goes_the_moment_it_is_let_go() -> None:
    """No cycle of references keeps its nodes for the garbage collector."""
    way = replace(ALONE, simulations=40)
    tree = make_tree()
    run_script(tree, lambda state: Expansion(math.sin(sum(state)), (step(1), step(2))), way)
    nodes = [ref(one) for one in tree.root.walk()]
    gc.disable()
    try:
        del tree
        assert [one() for one in nodes] == [None] * len(nodes)
    finally:
        gc.enable()


def test_a_record_that_is_no_tree_is_refused() -> None:
    tree = make_tree()
    run_script(tree, wide)
    saved = record(tree)
    for wrong, message in (({"parent": 10**6}, "names 1000000 as its parent"), ({"step": None}, "expected a step")):
        broken = replace(saved, nodes=(*saved.nodes[:-1], replace(saved.nodes[-1], **wrong)))
        with pytest.raises(ValueError, match=message):
            resume(broken, make_tree())
