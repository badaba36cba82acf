"""Search by index: one more step from the state that promises most solutions per token, and never the same step twice.

    index = P(solve) * unsampled ** 2 / tokens left
    P(solve) = p / (1 + failed * p / a)

p and the tokens that a path from there still takes are the calibration's, by depth and V; `failed` counts paths below
that ended wrong, and one that was given up as 1 - p. States of equal V differ, and the chances of those of one p are
taken to follow a Beta distribution whose first parameter is a: P(solve) is its mean after so many failures. So a
failure says much where much was promised, and little where failure was to be expected. `unsampled` is the policy's
probability of a step that is not yet known there. The prompt's own chance is such a mean over problems, by the
calibration's `strength`; it falls also once less than half of its first steps are left: the last of them are the
policy's slips, of which V knows nothing. A path is followed as long as its own index is the highest, given up for
another, and resumed, by this one rule. With several agents a place that is being sampled from counts as known.

This is an index policy, as Gittins' for bandits (1979), with learned rewards; nothing here proves it optimal.
"""

import asyncio
import random
from dataclasses import dataclass, field

from tsd.search.calibration import Calibration
from tsd.search.memory import Memory
from tsd.search.node import Node, Status
from tsd.search.unsampled import NOTHING, Unsampled

MASS_POWER = 2
BETA_A = 0.2
"""The first parameter of the Beta distributions that states' chances are taken to follow."""
COMMON = 0.5
"""The policy's probability of first steps below which those that are left are rare ones, and a prompt promises less."""
FAIL_WEIGHT = 0.5
"""What a failure counts in trees that are learned from."""
SOLVED_FAILS = 0.3
"""How much of a failure a solution counts as: where more than one is wanted, others may be elsewhere."""
OVERLAP = 0.05
"""Tokens under way on one tree, as a share of those it has cost: they know nothing of each other, and what is under way
when the solution comes was for nothing. So a tree that has cost little is searched by few of its agents at once."""


@dataclass(slots=True, eq=False)
class Prospect:
    """A state from which search may go on."""

    node: Node
    up: "Prospect | None"
    """None at the root."""
    chance: float
    """P(solve) when it was sampled: p."""
    tokens_left: float
    num_failed: float = 0.0
    unsampled: Unsampled = field(default_factory=Unsampled)

    def fail(self, share: float) -> None:
        """A path below it was a failure, or is by this share."""
        prospect: Prospect | None = self
        while prospect is not None:
            prospect.num_failed += share
            prospect = prospect.up


class Index:
    """All prospects of one tree, which may have grown already: what is known of it is learned from its nodes."""

    runs_first_whole = False
    """Whether the tree's first path, a plain sample, is run to its end for the calibration to learn from."""

    def __init__(self, root: Node, calibration: Calibration, *, seed: int, give_up: float = 0.0) -> None:
        self.calibration = calibration
        self.least = give_up * calibration.solve_rate / calibration.path_tokens
        """What promises less than this share of a new problem's prompt is not worth a token."""
        self.rng = random.Random(seed)
        self.root = Prospect(root, None, calibration.solve_rate, calibration.path_tokens)
        self.prospects = {root: self.root}
        self.memory: Memory | None = None
        """Whoever searches the tree sets it."""
        self.num_under_way = 0
        self.num_begun = 0
        """Paths begun."""
        self._change = asyncio.Event()
        self._learn_of(root)

    def __call__(self, prospect: Prospect) -> float:
        """Solutions per token that are to be expected of one more step from there; 0 where nothing is left."""
        mass = prospect.unsampled.mass
        if mass < NOTHING or prospect.node.closed:
            return 0.0
        if prospect.up is None:
            return self.prompt_chance(prospect, mass) / prospect.tokens_left
        return self.state_chance(prospect) * mass**MASS_POWER / max(1.0, prospect.tokens_left)

    def prompt_chance(self, prompt: Prospect, mass: float) -> float:
        """P(solve) of the prompt, of whose first steps so much is unsampled."""
        return prompt.chance * self.calibration.hope(prompt.num_failed) * min(1.0, mass / COMMON)

    def state_chance(self, prospect: Prospect) -> float:
        """P(solve) of another state, after the failures below it."""
        return prospect.chance / (1 + prospect.num_failed * prospect.chance / BETA_A)

    def best(self) -> Prospect | None:
        """The one with the highest index, the oldest of equals; None where nothing is left that is worth a token."""
        best = max(self.prospects.values(), key=self)
        return best if self._is_worth(self(best)) else None

    def is_best(self, prospect: Prospect) -> bool:
        """Whether it is worth a token, and no other is higher."""
        own = self(prospect)
        return self._is_worth(own) and all(own >= self(other) for other in self.prospects.values())

    def _is_worth(self, index: float) -> bool:
        """Whether something is left to sample there, and promises enough."""
        return index > 0 and index >= self.least

    def enter(self, node: Node, up: Prospect, value: float) -> Prospect:
        """A state of that first value becomes a prospect, or is one already."""
        known = self.prospects.get(node)
        if known is not None:
            return known
        chance, tokens_left = self.calibration.judge(node.depth, value)
        prospect = self.prospects[node] = Prospect(node, up, chance, tokens_left)
        return prospect

    def _learn_of(self, root: Node) -> None:
        """What a tree that has grown already says of its states: steps that are known, and paths that failed."""
        _, *nodes = root.walk()
        for node in nodes:
            assert node.parent is not None
            assert node.step is not None
            up, value = self.prospects[node.parent], node.step.values[-1]
            up.unsampled.add(node.step)
            if node.status is not Status.OPEN:
                up.fail(SOLVED_FAILS if node.grade is not None and node.grade.exact else 1.0)
            elif not node.made:
                up.fail(1 - self.enter(node, up, value).chance)
            else:
                self.enter(node, up, value)

    def begins_whole(self) -> bool:
        """Counts a path that begins, and says whether it is to be run to its end."""
        self.num_begun += 1
        return self.runs_first_whole and self.num_begun == 1

    def has_room(self, num_generated: int, num_expansions: int) -> bool:
        """Whether one more step may be under way beside the others."""
        step_tokens = num_generated / max(1, num_expansions)
        return not self.num_under_way or self.num_under_way * step_tokens <= OVERLAP * num_generated

    async def change(self) -> None:
        """Waits until a step under way has come, or has failed."""
        await self._change.wait()

    def changed(self) -> None:
        """Lets all go on who wait for a change."""
        self._change.set()
        self._change = asyncio.Event()


class TrainingIndex(Index):
    """The rule for trees that are learned from: a failure counts a half wherever it is, first steps are all alike.

    It solves fewer problems per token. But a policy that learned from the other rule's trees collapsed after 1.8M
    tokens, in both of two runs; why is not known.
    """

    runs_first_whole = True

    def prompt_chance(self, prompt: Prospect, mass: float) -> float:
        return prompt.chance * self.calibration.hope(prompt.num_failed)

    def state_chance(self, prospect: Prospect) -> float:
        return prospect.chance / (1 + FAIL_WEIGHT * prospect.num_failed)
