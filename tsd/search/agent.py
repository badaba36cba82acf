"""One agent: a coroutine that runs simulations on a tree it shares with others.

select -> expand (await the engine) -> backup. Waits for the engine, or for another agent that is expanding the same
node; whoever expands wakes those who wait, also when the call fails or is cancelled.
"""

import asyncio
from array import array

from tsd.protocols import Engine
from tsd.search.index import SOLVED_FAILS, Index, Prospect
from tsd.search.node import Node, Status
from tsd.search.selection import descend
from tsd.search.tree import Tree
from tsd.search.unsampled import NOTHING
from tsd.types import Step

OPEN = Status.OPEN


async def search(tree: Tree, engine: Engine) -> None:
    """Simulations until the tree is done."""
    run = simulate_by_index if tree.index else simulate_to_end if tree.config.rollout else simulate
    while tree.begin():
        num_expansions = tree.num_expansions
        await run(tree, engine)
        if tree.num_expansions == num_expansions:
            # A simulation that met only ended nodes awaited nothing; the loop must still turn.
            await asyncio.sleep(0)


async def simulate(tree: Tree, engine: Engine) -> None:
    """One simulation: from the root to a leaf, its evaluation, and the backup of that evaluation.

    At a node that another agent is expanding it waits and descends further. Where the expansion left nothing to search
    below, it starts again from the root; what is known of ends is counted already.
    """
    path = tree.enter()
    try:
        while (node := descend(tree, path)).expanding:
            tree.num_collisions += 1
            await tree.expanded(node)
            if node.closed or node.spent:
                tree.unmark(path)
                path = tree.enter()
            if tree.root.closed:
                tree.num_simulations -= 1  # nothing was left for this one
                return
        if node.status is OPEN:
            tree.claim(node)
            try:
                expansion = await engine.expand(tree.tokens(path), tree.config.num_samples, tree.step_room(node))
                tree.expand(node, expansion)
            finally:
                tree.release(node)
            value = expansion.value
        else:
            value = node.end_value
        tree.backup(path, value)
        path = []
    finally:
        tree.unmark(path)


async def simulate_to_end(tree: Tree, engine: Engine) -> None:
    """One simulation under `rollout`: down the tree and, where a state is due for it, along a new sample, to an end.

    The end's reward is what is backed up. Nobody waits: a state may be sampled by several agents at once.
    """
    path = tree.enter()
    try:
        while (node := descend(tree, path)).status is OPEN:
            child = await _sample(tree, engine, node, path)
            child.passed += 1
            path.append(child)
        tree.backup(path, node.end_value)
        path = []
    finally:
        tree.unmark(path)


async def _sample(tree: Tree, engine: Engine, node: Node, path: list[Node]) -> Node:
    """One more step from a node; the child that it is."""
    node.num_sampled += 1
    try:
        expansion = await engine.expand(tree.tokens(path), 1, tree.step_room(node))
    except BaseException:
        node.num_sampled -= 1
        raise
    if node.value is None:
        node.value = expansion.value
    return tree.add(node, expansion.steps)


async def simulate_by_index(tree: Tree, engine: Engine) -> None:
    """One path by index: from the state of the highest one, step by step, until it ends or another state is higher.

    Waits for other agents' steps where too many are under way for what the tree has cost, or where nothing else is
    left to sample.
    """
    index = tree.index
    assert index is not None, "the tree was planted for it"
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
            tree.root.closed = True
            return None
        await index.change()
        if tree.stop_reason() not in (None, "simulations"):  # of these it has its own
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
                steps = [node.step for node in path if node.step is not None]
                values, lengths = [step.values[-1] for step in steps], [len(step.tokens) for step in steps]
                index.calibration.add(values, lengths, child.end_value, solved)
            return child.end_value
        following = index.enter(child, prospect)
        ends = tree.stop_reason() not in (None, "simulations") or not index.is_best(following)
        # A whole path goes on all the same, unless an engine has repeated itself and this state has nothing new left.
        if following.unsampled.mass < NOTHING or (ends and not whole):
            prospect.fail(1 - following.chance)
            assert child.step is not None
            return child.step.values[-1]
        prospect = following


async def _sample_new(tree: Tree, engine: Engine, index: Index, prospect: Prospect) -> Node:
    """One step from a state that is not known there; the child that it is."""
    node, unsampled = prospect.node, prospect.unsampled
    shared, known = unsampled.draw(index.rng)
    index.num_under_way += 1
    try:
        room = tree.step_room(node) - len(shared)
        expansion = await engine.expand((*tree.state(node), *shared), 1, room, known)
    finally:
        unsampled.give_back(shared)
        index.num_under_way -= 1
        index.changed()
    if not shared:
        node.value = expansion.value
    step = _joined(node, shared, expansion.steps[0])
    unsampled.add(step)
    return tree.add(node, (step,), num_shared=len(shared))


def _joined(node: Node, shared: tuple[int, ...], rest: Step) -> Step:
    """The step that begins as a known one does, and goes on otherwise."""
    if not shared:
        return rest
    known = next(child.step for child in node.made if child.step and child.step.tokens[: len(shared)] == shared)
    logprobs = array("f", [*known.logprobs[: len(shared)], *rest.logprobs])
    values = array("f", [*known.values[: len(shared)], *rest.values])
    return Step((*shared, *rest.tokens), logprobs, values, rest.finish, rest.version)
