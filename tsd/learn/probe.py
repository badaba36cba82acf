"""Trainer and engine at the same weights, when the trainer has long moved on: how far apart are their logprobs?

Keeps a copy of one published version until tokens that it sampled come to be learned from, scores some of them with it,
and takes the next. So the gap between the two is known in every run, however stale its trajectories are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tsd.learn.batch import collate
from tsd.learn.ranks import Ranks
from tsd.learn.rows import Row
from tsd.learn.update import score
from tsd.model.policy import Policy

ENOUGH_TOKENS = 64
"""Scored each time: enough for a mean, next to nothing beside an update."""


class Probe:
    """The copy, and the last gap found with one."""

    def __init__(self, policy: Policy, ranks: Ranks, temperature: float, max_tokens: int) -> None:
        self.policy, self.ranks = policy, ranks
        self.temperature, self.max_tokens = temperature, max_tokens
        self.version = -1
        """Version of the copy; -1 where there is none."""
        self.gap: float | None = None
        """Mean |trainer - behaviour| logprob of the tokens last scored."""
        self._copy: list[Tensor] = []

    def keep(self, version: int) -> None:
        """The policy's weights, which have just been published under that version, unless a copy still waits."""
        if self.version < 0:
            self.version = version
            self._copy = [parameter.detach().clone() for parameter in self.ranks.parameters(self.policy)]

    def drop(self) -> None:
        """Lets the copy go."""
        self.version, self._copy = -1, []

    @torch.no_grad()
    def measure(self, rows: Sequence[Row]) -> None:
        """Looks for tokens of the copy's version in a whole batch; every rank scores the same ones."""
        found, num_tokens = list[Row](), 0
        for row in rows:
            count = int((row.versions == self.version).sum())
            if count and num_tokens < ENOUGH_TOKENS:
                found.append(row)
                num_tokens += count
        if self.version < 0 or not found:
            return
        self._swap()
        gaps: list[Tensor] = []
        for batch in collate(found, self.max_tokens):
            scored = score(self.policy, batch, self.temperature, self.ranks.device)
            own = ((batch.versions == self.version) & batch.mask).to(self.ranks.device)
            gaps.append((scored.logprobs - batch.behaviour.to(self.ranks.device))[own].abs())
        self._swap()
        self.gap = float(torch.cat(gaps).mean())
        self.drop()

    def _swap(self) -> None:
        """Copy and policy change places: each rank's own part, wherever the model is split."""
        for parameter, copy in zip(self.ranks.parameters(self.policy), self._copy, strict=True):
            now = parameter.detach().clone()
            parameter.copy_(copy)
            copy.copy_(now)
