"""Search by pUCT (Silver et al., 2017), many agents on one tree, with visits in flight accounted for.

score = Q + c * P * sqrt(sum over siblings of N + O) / (1 + N + O)

N counts visits, O those in flight; P is the prior. Q is the mean of the values backed up, and of a child not yet
visited V of its state, known since its last token was sampled. Visits in flight do not count in Q (WU-UCT: Liu et al.,
2020), unless `virtual_loss` says as how many visits lost each of them counts.

select -> expand (await the engine) -> backup. A simulation waits for the engine, or for another agent that is expanding
the same node; whoever expands wakes those who wait, also when the call fails or is cancelled.
"""

from tsd.config import PuctConfig
from tsd.search.grow import grow
from tsd.search.hot import Select, descend
from tsd.search.node import Status
from tsd.search.tree import Budget, Tree
from tsd.types import Engine

OPEN = Status.OPEN


async def search_by_puct(tree: Tree, engine: Engine, config: PuctConfig, select: Select = descend) -> str:
    """Grows a tree, also one that has grown already, up to its budget; returns the reason for the end.

    `select` may be another rule than pUCT.
    """
    tree.budget = Budget(config.simulations, config.max_tokens, config.solutions)
    _close_searched(tree)
    return await grow(tree, lambda: simulate(tree, engine, config, select), config.agents)


def _close_searched(tree: Tree) -> None:
    """Closes what has nothing left below it, in a tree that was saved and made again."""
    nodes = [tree.root]
    for node in nodes:
        nodes += node.made
    for node in reversed(nodes):
        if node.made:
            tree.close(node)


async def simulate(tree: Tree, engine: Engine, config: PuctConfig, select: Select = descend) -> None:
    """One simulation: from the root to a leaf, its evaluation, and the backup of that evaluation.

    At a node that another agent is expanding it waits and descends further. Where the expansion left nothing to search
    below, it starts again from the root.
    """
    path = tree.enter()
    try:
        while (node := select(path, config.c_puct, config.virtual_loss)).expanding:
            tree.num_collisions += 1
            await tree.expanded(node)
            if node.closed:
                tree.unmark(path)
                path = tree.enter()
            if tree.root.closed:
                tree.num_simulations -= 1  # nothing was left for this one
                return
        if node.status is OPEN:
            tree.claim(node)
            try:
                expansion = await engine.expand(tree.tokens(path), config.num_samples, tree.step_room(node))
                tree.expand(node, expansion, config.prior)
            finally:
                tree.release(node)
            value = expansion.value
        else:
            value = node.end_value
        tree.backup(path, value)
        path = []
    finally:
        tree.unmark(path)
