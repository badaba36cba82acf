"""Search by pUCT (Silver et al., 2017), many agents on one tree, with visits in flight accounted for.

score = Q + c * P * sqrt(sum over siblings of N + O) / (1 + N + O)

N counts visits, O those in flight; P is the prior. Q is the mean of the values backed up, and of a child not yet
visited V of its state, known since its last token was sampled. Visits in flight do not count in Q (WU-UCT: Liu et al.,
2020), unless `virtual_loss` says as how many visits lost each of them counts.

select -> expand (await the engine) -> backup. A simulation waits for the engine, or for another agent that is expanding
the same node; whoever expands wakes those who wait, also when the call fails or is cancelled.
"""

from math import inf, sqrt

from tsd.config import PuctConfig
from tsd.search.grow import grow
from tsd.search.node import WORST_REWARD, Node, Status
from tsd.search.tree import Budget, Tree
from tsd.types import Engine

OPEN = Status.OPEN


async def search_by_puct(tree: Tree, engine: Engine, config: PuctConfig) -> str:
    """Grows a tree, also one that has grown already, up to its budget; returns the reason for the end."""
    tree.budget = Budget(config.simulations, config.max_tokens, config.solutions)
    _close_searched(tree)
    return await grow(tree, lambda: simulate(tree, engine, config), config.agents)


def _close_searched(tree: Tree) -> None:
    """Closes what has nothing left below it, in a tree that was saved and made again."""
    nodes = [tree.root]
    for node in nodes:
        nodes += node.made
    for node in reversed(nodes):
        if node.made:
            tree.close(node)


async def simulate(tree: Tree, engine: Engine, config: PuctConfig) -> None:
    """One simulation: from the root to a leaf, its evaluation, and the backup of that evaluation.

    At a node that another agent is expanding it waits and descends further. Where the expansion left nothing to search
    below, it starts again from the root.
    """
    path = tree.enter()
    try:
        while (node := descend(path, config.c_puct, config.virtual_loss)).expanding:
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


def descend(path: list[Node], c_puct: float, virtual_loss: float) -> Node:
    """From the path's end down the best children, each marked and appended, to a node to be evaluated.

    Best: the highest score among children with something left below, the first of equals. This is the search's
    hottest loop, so it is plain arithmetic on local names.
    """
    node = path[-1]
    while True:
        children, untouched = node.made, node.untouched
        if not children:
            if untouched is None:
                return node
            best = node.make_child()
        elif len(children) == 1 and untouched is None:
            best = children[0]
        else:
            # The siblings' N + O are the parent's, less its own evaluation and the simulation that stands here.
            total = node.passed - 2
            weight = c_puct * sqrt(total) if total > 1 else c_puct
            best, highest = children[0], -inf
            for child in children:
                if child.closed:
                    continue
                passed, q = child.passed, child.mean
                if virtual_loss and passed > child.visits:
                    q = with_losses(child, virtual_loss)
                score = q + weight * child.prior / (1 + passed)
                if score > highest:
                    best, highest = child, score
            if untouched is not None and node.untouched_value + weight * node.untouched_prior > highest:
                best = node.make_child()
        best.passed += 1
        path.append(best)
        node = best


def with_losses(child: Node, virtual_loss: float) -> float:
    """Q with each visit in flight as so many visits lost."""
    num_lost = virtual_loss * child.in_flight
    return (child.mean * child.visits + num_lost * WORST_REWARD) / (child.visits + num_lost)
