"""Where a simulation goes: pUCT (Silver et al., 2017), with visits in flight accounted for.

score = Q + c(s) * P * sqrt(sum over siblings of N + O) / (1 + N + O)

Q with `wu-uct` (Liu et al., 2020) is that of completed visits alone; with `virtual-loss` each visit in flight counts
as `virtual_loss` visits lost at the worst reward, so that it never raises a Q, negative ones included. The first is
the second with a weight of 0.
"""

from math import inf, log, sqrt

from tsd.config import SearchConfig
from tsd.search.node import WORST_REWARD, Node
from tsd.search.tree import Tree


def descend(tree: Tree, path: list[Node]) -> Node:
    """From the path's end down the best children, each marked and appended, to a node to be evaluated.

    Best: the highest score among children with something left below, the first of equals. This is the search's
    hottest loop, so it is plain arithmetic on local names.
    """
    config, gumbel, low, scale = tree.config, tree.gumbel, tree.q_low, tree.q_scale
    shared = tree.num_transpositions > 0
    c, reduction = config.c_puct, config.fpu_reduction
    loss = config.virtual_loss if config.in_flight == "virtual-loss" else 0.0
    node = path[-1]
    while node.children and not node.spent:
        if gumbel is not None and node is tree.root:
            best = gumbel.choose(node)
        elif len(node.children) == 1:
            if tree.widens(node):
                break
            best = node.children[0]
        else:
            # The siblings' N + O are the parent's, less its own evaluation and the simulation that stands here.
            total = node.visits + node.in_flight - 2
            weight = (c if not config.c_puct_base else exploration(total, config)) * sqrt(total if total > 1 else 1)
            holder = node.twin or node
            first_play = holder.value_sum / (holder.num_values or 1) - reduction
            best, highest = node.children[0], -inf
            for child in node.children:
                if child.closed:
                    continue
                busy = child.in_flight
                holder = child.twin or child
                if num_values := holder.num_values + loss * busy:
                    q = (holder.value_sum + loss * busy * WORST_REWARD) / num_values
                else:
                    q = first_play
                score = (q - low) * scale + weight * child.prior / (1 + child.visits + busy)
                if score > highest:
                    best, highest = child, score
                if not (num_values or busy or shared):
                    break  # untouched, and so are those after it, which have no larger prior
        best.in_flight += 1
        path.append(best)
        node = best
    return node


def exploration(total: int, config: SearchConfig) -> float:
    """c(s) growing with the logarithm of the visits, as in AlphaZero's published pseudocode."""
    return config.c_puct + log((1 + total + config.c_puct_base) / config.c_puct_base)
