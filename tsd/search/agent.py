"""One agent: a coroutine that runs simulations on a tree it shares with others.

select -> expand (await the engine) -> backup. Waits for the engine, or for another agent that is expanding the same
node; whoever expands wakes those who wait, also when the call fails or is cancelled.
"""

import asyncio

from tsd.protocols import Engine
from tsd.search.node import Node, Status
from tsd.search.selection import descend
from tsd.search.tree import Tree

OPEN = Status.OPEN


async def search(tree: Tree, engine: Engine) -> None:
    """Simulations until the tree is done."""
    run = simulate_to_end if tree.config.rollout else simulate
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
