"""The search's hot path: what is written for CPython's speed, and what it stands for.

    descend            while node.children: node = max(open children, key=score); node.passed += 1
    leave_untouched    node.children = [Node(step) for step in steps]

Both are plain arithmetic on local names, and make a node of a step only when search goes there: with an engine that
answers at once, half of a simulation's time is theirs. `tests/support/oracle.py` is the same search written plainly,
and the tests compare the two visit for visit. Knows nothing about engines.
"""

from collections.abc import Callable, Sequence
from math import inf, sqrt
from typing import TYPE_CHECKING

from tsd.search.node import WORST_REWARD, Node
from tsd.types import Step

if TYPE_CHECKING:
    from tsd.search.tree import Tree


Select = Callable[[list[Node], float, float], Node]
"""From a path's end down to a node to be evaluated, each node on the way marked and appended: see `descend`."""


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


def leave_untouched(tree: "Tree", node: Node, steps: Sequence[Step]) -> bool:
    """Keeps a leaf's steps as they are, if nothing is to be known of any before search comes to it."""
    limits = tree.limits
    if node.made:
        return False
    room = limits.max_path_tokens - node.num_path_tokens if node.depth + 1 < limits.max_depth else 0
    known: list[tuple[int, ...]] = []
    num_generated = tree.num_generated
    for step in steps:
        tokens = step.tokens
        if step.finish != "step" or len(tokens) >= room or tokens in known:
            return False
        num_generated += len(tokens)
        known.append(tokens)
    untouched = [*reversed(steps)]
    untouched.sort(key=_last_value)  # of equals the one drawn first stays last, which is the next
    node.made, node.untouched = [], untouched
    node.untouched_prior, node.expanded_at = 1 / len(steps), tree.num_expansions
    node.untouched_value = untouched[-1].values[-1]
    tree.num_generated = num_generated
    tree.num_nodes += len(steps)
    tree.num_expansions += 1
    return True


def _last_value(step: Step) -> float:
    """V of the state as the step's last token was sampled: what a candidate is worth before it is visited."""
    return step.values[-1]
