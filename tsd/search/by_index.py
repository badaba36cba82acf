"""Search by index, many agents on one tree: each follows one path, and asks the index at every step where to go on.

choose (the index) -> sample one new step (await the engine) -> follow it, give it up, or end. An agent waits for the
others' steps where too many are under way for what the tree has cost, or where nothing else is left to sample; each
step that comes, or fails, wakes all who wait.
"""

from array import array

from tsd.config import IndexConfig
from tsd.search.calibration import Calibration
from tsd.search.grow import grow
from tsd.search.index import SOLVED_FAILS, Index, Prospect
from tsd.search.memory import Memory, Place, first_value, outcomes
from tsd.search.node import Node, Status
from tsd.search.tree import Budget, Tree
from tsd.search.unsampled import NOTHING
from tsd.types import Engine, Step

OPEN = Status.OPEN


async def search_by_index(
    tree: Tree,
    engine: Engine,
    config: IndexConfig,
    calibration: Calibration,
    *,
    rule: type[Index] = Index,
    memory: Memory | None = None,
) -> str:
    """Grows a tree, also one that has grown already, up to its budget; returns the reason for the end.

    `rule` may be another index; `TrainingIndex` teaches the calibration. A `memory` is asked about new states, and
    learns what came of those that search went on from.
    """
    tree.budget = Budget(max_tokens=config.max_tokens, solutions=config.solutions)
    index = rule(tree.root, calibration, seed=tree.seed, give_up=config.give_up)
    index.memory = memory
    reason = await grow(tree, lambda: simulate(tree, engine, index), config.agents)
    if memory is not None:
        await memory.remember(outcomes(tree))
    return reason


async def simulate(tree: Tree, engine: Engine, index: Index) -> None:
    """One path by index: from the state of the highest one, step by step, until it ends or another state is higher."""
    prospect = await _first(tree, index)
    if prospect is None:
        tree.num_simulations -= 1
        return
    whole = index.begins_whole()
    path = [tree.root, *prospect.node.path()]
    for node in path:
        node.passed += 1
    try:
        value = await _follow(tree, engine, index, prospect, path, whole=whole)
        tree.backup(path, value)
        path = []
    finally:
        tree.unmark(path)


async def _first(tree: Tree, index: Index) -> Prospect | None:
    """Where a path should begin, as soon as there is room for one; None where the tree has ended meanwhile."""
    while True:
        if index.has_room(tree.num_generated, tree.num_expansions) and (best := index.best()) is not None:
            return best
        if not index.num_under_way:
            tree.is_given_up = any(map(index, index.prospects.values()))
            tree.root.closed = not tree.is_given_up
            return None
        await index.change()
        if tree.stop_reason() is not None:
            return None


async def _follow(
    tree: Tree, engine: Engine, index: Index, prospect: Prospect, path: list[Node], *, whole: bool
) -> float:
    """Samples on from a prospect, along `path`; returns what the path came to, V where it was given up."""
    while True:
        child = await _sample_new(tree, engine, index, prospect)
        child.passed += 1
        path.append(child)
        if child.status is not OPEN:
            solved = child.grade is not None and child.grade.exact
            prospect.fail(SOLVED_FAILS if solved else 1.0)
            if whole:
                index.calibration.add(*_values_and_lengths(path), child.end_value, solved)
            return child.end_value
        following = index.enter(child, prospect, child.mean)
        ends = tree.stop_reason() is not None or not index.is_best(following)
        # A whole path goes on all the same, unless an engine has repeated itself and this state has nothing new left.
        if following.unsampled.mass < NOTHING or (ends and not whole):
            prospect.fail(1 - following.chance)
            return child.mean
        prospect = following


def _values_and_lengths(path: list[Node]) -> tuple[list[float], list[int]]:
    """V after each step of a path, and the tokens of each."""
    steps = [node.step for node in path if node.step is not None]
    return [step.values[-1] for step in steps], [len(step.tokens) for step in steps]


async def _sample_new(tree: Tree, engine: Engine, index: Index, prospect: Prospect) -> Node:
    """One step from a state that is not known there; the child that it is."""
    node, unsampled = prospect.node, prospect.unsampled
    shared, known = unsampled.draw(index.rng)
    index.num_under_way += 1
    try:
        room = tree.step_room(node) - len(shared)
        expansion = await engine.expand((*tree.state(node), *shared), 1, room, known)
        step = _joined(node, shared, expansion.steps[0])
        value = step.values[-1]
        if index.memory is not None and step.finish == "step":
            value = await first_value(index.memory, Place(tree.prompt, step.tokens), value)
    finally:
        unsampled.give_back(shared)
        index.num_under_way -= 1
        index.changed()
    if not shared:
        node.value = expansion.value
    unsampled.add(step)
    child = tree.add(node, (step,), num_shared=len(shared))
    if not child.visits:
        child.mean = value
    return child


def _joined(node: Node, shared: tuple[int, ...], rest: Step) -> Step:
    """The step that begins as a known one does, and goes on otherwise."""
    if not shared:
        return rest
    known = next(child.step for child in node.made if child.step and child.step.tokens[: len(shared)] == shared)
    logprobs = array("f", [*known.logprobs[: len(shared)], *rest.logprobs])
    values = array("f", [*known.values[: len(shared)], *rest.values])
    return Step((*shared, *rest.tokens), logprobs, values, rest.finish, rest.version)
