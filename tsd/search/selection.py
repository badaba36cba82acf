"""Which child a simulation descends to: pUCT (Silver et al., 2017), with visits in flight accounted for.

score = Q + c(s) * P * sqrt(sum over siblings of N + O) / (1 + N + O)
"""

import math
from typing import assert_never

from tsd.config import SearchConfig
from tsd.search.tree import WORST_REWARD, Node


def select(node: Node, config: SearchConfig) -> Node:
    """The best-scoring child with something left below it; the first of equals with the largest prior."""
    candidates = [child for child in node.children if not child.closed] or node.children
    if len(candidates) == 1:
        return candidates[0]
    total = sum(child.visits + child.in_flight for child in node.children)
    weight = exploration(total, config) * math.sqrt(max(1, total))
    first_play = node.q - config.fpu_reduction
    return max(candidates, key=lambda child: (score(child, weight, first_play, config), child.prior))


def score(child: Node, weight: float, first_play: float, config: SearchConfig) -> float:
    """pUCT's score; `weight` is c(s) times the square root of the siblings' visits."""
    exploit = exploitation(child, first_play, config)
    return exploit + weight * child.prior / (1 + child.visits + child.in_flight)


def exploration(total: int, config: SearchConfig) -> float:
    """c(s): constant, or growing with the logarithm of the visits as in AlphaZero's published pseudocode."""
    if not config.c_puct_base:
        return config.c_puct
    return config.c_puct + math.log((1 + total + config.c_puct_base) / config.c_puct_base)


def exploitation(child: Node, first_play: float, config: SearchConfig) -> float:
    """Q with visits in flight as the scheme sees them.

    `wu-uct` (Liu et al., 2020): Q of completed visits alone. `virtual-loss`: each visit in flight counts as
    `virtual_loss` visits lost at the worst reward, so that it never raises a Q, negative ones included.
    """
    if config.in_flight == "wu-uct":
        return child.q if child.visits else first_play
    if config.in_flight == "virtual-loss":
        lost = config.virtual_loss * child.in_flight
        num_visits = child.visits + lost
        return (child.value_sum + lost * WORST_REWARD) / num_visits if num_visits else first_play
    assert_never(config.in_flight)
