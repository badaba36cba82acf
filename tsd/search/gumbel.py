"""The root by Gumbel noise and sequential halving (Danihelka et al., 2022).

Each of the root's steps gets Gumbel noise once. The budget goes evenly to the steps still considered; after each phase
the worse half, by noise + log prior + scaled Q, is considered no longer. Below the root pUCT goes on.
"""

import math
import random

from tsd.config import SearchConfig
from tsd.search.node import Node

VISIT_OFFSET = 50
VALUE_SCALE = 0.1
"""sigma(q) = VALUE_SCALE * (VISIT_OFFSET + the most visits) * q, with q in [0, 1]: the paper's, with mctx's values."""


class GumbelRoot:
    """Which of the root's children a simulation takes."""

    def __init__(self, config: SearchConfig, rng: random.Random) -> None:
        self.simulations, self.rng = config.simulations, rng
        self.noise: list[float] = []
        self.schedule: list[int] = []

    def choose(self, root: Node) -> Node:
        """The best of those that are due a visit; visits in flight count as made, so agents spread as one would."""
        children = root.children
        if len(self.noise) != len(children):
            self.noise += [-math.log(self.rng.expovariate(1.0)) for _ in children[len(self.noise) :]]
            self.schedule = considered_visits(len(children), self.simulations)
        visits = [child.passed for child in children]
        turn = min(sum(visits), len(self.schedule) - 1)
        open_ = [i for i, child in enumerate(children) if not child.closed] or list(range(len(children)))
        due = [i for i in open_ if visits[i] == self.schedule[turn]]
        if not due:  # those due are closed: the turn goes to the least visited
            fewest = min(visits[i] for i in open_)
            due = [i for i in open_ if visits[i] == fewest]
        most = max(child.visits for child in children)
        return children[max(due, key=lambda i: self._score(root, i, most))]

    def _score(self, root: Node, i: int, most_visits: int) -> float:
        child = root.children[i]
        q = child.q if child.visits else root.q
        return self.noise[i] + math.log(child.prior) + VALUE_SCALE * (VISIT_OFFSET + most_visits) * (q + 1) / 2


def considered_visits(num_children: int, num_simulations: int) -> list[int]:
    """For each simulation, how many visits a child must have had to be due: sequential halving, as mctx lays it out."""
    if num_children <= 1:
        return list(range(num_simulations))
    phases = math.ceil(math.log2(num_children))
    sequence: list[int] = []
    visits = [0] * num_children
    considered = num_children
    while len(sequence) < num_simulations:
        extra = max(1, num_simulations // (phases * considered))
        for _ in range(extra):
            sequence += visits[:considered]
            visits[:considered] = [count + 1 for count in visits[:considered]]
        considered = max(2, considered // 2)
    return sequence[:num_simulations]
