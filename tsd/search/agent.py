"""One agent: a coroutine that runs simulations on a tree it shares with others.

select -> expand (await the engine) -> backup. Waits for the engine, or for another agent that is expanding the same
node; whoever expands wakes those who wait, also when the call fails or is cancelled.
"""

import asyncio

from tsd.protocols import Engine
from tsd.search.selection import select
from tsd.search.tree import Node, Status, Tree


async def search(tree: Tree, engine: Engine) -> None:
    """Simulations until the tree is done."""
    while tree.begin():
        await simulate(tree, engine)
        # A simulation that met only ended nodes awaited nothing; the loop must still turn.
        await asyncio.sleep(0)


async def simulate(tree: Tree, engine: Engine) -> None:
    """One simulation: from the root to a leaf, its evaluation, and the backup of that evaluation."""
    path = [tree.root]
    tree.mark(tree.root)
    try:
        value = await _descend(tree, engine, path)
        tree.backup(path, value)
    finally:
        tree.unmark(path)


async def _descend(tree: Tree, engine: Engine, path: list[Node]) -> float:
    """Follows the best children, marking them, to an ended node or to one it expands itself; returns its value."""
    while True:
        node = path[-1]
        if node.status is not Status.OPEN:
            return node.end_value
        if node.children:
            child = select(node, tree.config)
            tree.mark(child)
            path.append(child)
        elif node.expanding is not None:
            tree.num_collisions += 1
            await node.expanding.wait()
        else:
            return await _expand(tree, engine, node)


async def _expand(tree: Tree, engine: Engine, node: Node) -> float:
    """One engine call: the node's children and its value."""
    node.expanding = asyncio.Event()
    try:
        max_tokens = min(tree.config.max_step_tokens, tree.room(node))
        expansion = await engine.expand(tree.state(node), tree.config.num_samples, max_tokens)
        tree.expand(node, expansion)
        return expansion.value
    finally:
        node.expanding.set()
        node.expanding = None
