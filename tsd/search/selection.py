"""Where a simulation goes: pUCT (Silver et al., 2017), with visits in flight accounted for.

score = Q + c * P * sqrt(sum over siblings of N + O) / (1 + N + O)

Q with `wu-uct` (Liu et al., 2020) is that of completed visits alone; with `virtual-loss` each visit in flight counts
as `virtual_loss` visits lost at the worst reward, so that it never raises a Q, negative ones included. The first is
the second with a weight of 0.
"""

from math import inf, sqrt

from tsd.search.node import WORST_REWARD, Node
from tsd.search.tree import Tree


def descend(tree: Tree, path: list[Node]) -> Node:
    """From the path's end down the best children, each marked and appended, to a node to be evaluated.

    Best: the highest score among children with something left below, the first of equals. This is the search's
    hottest loop, so it is plain arithmetic on local names.
    """
    config = tree.config
    reduction, c = config.fpu_reduction, config.c_puct
    loss = config.virtual_loss if config.in_flight == "virtual-loss" else 0.0
    rollout, scale_n, power = config.rollout, config.widen_scale, config.widen_power
    spends = rollout or config.widen != "never"
    # The siblings' N + O are the parent's, less its own evaluation and the simulation that stands here.
    apart = 1 if rollout else 2
    node = path[-1]
    while True:
        children, untouched = node.made, node.untouched
        if (not children and untouched is None) or (spends and node.spent):
            break
        if rollout and node.num_sampled < scale_n * node.passed**power:
            break
        if len(children) == 1 and untouched is None:
            best = children[0]
        elif not children:
            best = node.make_child()
        else:
            total = node.passed - apart
            weight = c * sqrt(total) if total > 1 else c
            best, highest = children[0], -inf
            for child in children:
                if child.closed:
                    continue
                passed, q = child.passed, child.mean
                if q is None:
                    q = (node.mean or 0.0) - reduction
                if loss and passed > child.visits:
                    q = with_losses(child, loss)
                score = q + weight * child.prior / (1 + passed)
                if score > highest:
                    best, highest = child, score
                if not passed:
                    break  # untouched, and so are those after it, which have no larger prior
            if untouched is not None and (node.mean or 0.0) - reduction + weight * node.untouched_prior > highest:
                best = node.make_child()
        best.passed += 1
        path.append(best)
        node = best
    return node


def with_losses(child: Node, loss: float) -> float:
    """Q with each visit in flight as `loss` visits lost."""
    num_lost = loss * child.in_flight
    return ((child.mean or 0.0) * child.visits + num_lost * WORST_REWARD) / (child.visits + num_lost)
