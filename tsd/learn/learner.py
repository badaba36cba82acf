"""Learners: what the trainer drives, and the mock engine's own. A language model's is in `tsd.learn.policy_learner`.

A learner knows how to learn from a batch, give out its weights, and save and load itself; nothing about sockets. Where
there are several ranks, each call is one of all of them together. Does not import torch, which takes seconds.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from tsd.config import Config
from tsd.model.files import MOCK_FILE
from tsd.types import Stats, Trajectory, WeightUpdate


class Group(Protocol):
    """The trainer's processes, as far as orders go (`tsd.learn.ranks`)."""

    rank: int
    size: int

    def broadcast(self, message: bytes | None) -> bytes:
        """Rank 0's message, on every rank."""
        ...


class Alone:
    """A group of one."""

    rank, size = 0, 1

    def broadcast(self, message: bytes | None) -> bytes:
        assert message is not None
        return message


class Learner(Protocol):
    """What the trainer needs of one."""

    @property
    def vocabulary(self) -> int | None:
        """How many token ids it can learn from, where that is bounded."""
        ...

    def learn(self, trajectories: Sequence[Trajectory], version: int, number: int) -> Stats | None:
        """The update of that number, from 0, on one batch; `version` is the last one published.

        None where the loss was not finite and nothing changed.
        """
        ...

    def weights(self, version: int) -> WeightUpdate:
        """On rank 0; other ranks get an empty one."""
        ...

    def save(self, directory: Path) -> None:
        """All ranks take part; rank 0 writes into the directory, which is there.

        Raises OSError where the disk refuses.
        """
        ...


class MockLearner:
    """Moves the mock engine's one weight, the chance of a good step, up with the share of exact answers it sees."""

    RATE = 0.05
    vocabulary = None

    def __init__(self, config: Config, checkpoint: Path | None, ranks: Group) -> None:
        self.rank, self.solve_rate = ranks.rank, config.engine.mock_solve_rate
        if checkpoint is not None:
            self.solve_rate = msgspec.json.decode((checkpoint / MOCK_FILE).read_bytes(), type=float)

    def learn(self, trajectories: Sequence[Trajectory], version: int, number: int) -> Stats:
        exact = sum(trajectory.grade.exact for trajectory in trajectories) / len(trajectories)
        before, self.solve_rate = self.solve_rate, self.solve_rate + self.RATE * exact * (1 - self.solve_rate)
        return Stats(
            loss=1 - exact,
            policy_loss=1 - exact,
            value_loss=0.0,
            kl=0.0,
            entropy=-sum(p * math.log(p) for p in (before, 1 - before) if p > 0),
            ratio_mean=1.0,
            num_tokens_computed=sum(len(trajectory.tokens) for trajectory in trajectories),
            grad_norm=self.solve_rate - before,
        )

    def weights(self, version: int) -> WeightUpdate:
        return WeightUpdate(version, {"solve_rate": np.array([self.solve_rate], np.float32)})

    def save(self, directory: Path) -> None:
        if self.rank == 0:
            (directory / MOCK_FILE).write_bytes(msgspec.json.encode(self.solve_rate))
