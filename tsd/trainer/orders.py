"""What all ranks of the trainers do next, as rank 0 says: learn, put their parts of the model together, or end.

Every rank performs the same orders in the same sequence, or all of them wait. Knows nothing about where batches come
from.
"""

from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tsd.learn.learner import Group, Learner
from tsd.transport.codec import MAX_BATCH_BYTES, decode, encode
from tsd.types import Stats, Trajectory, WeightUpdate

Result = TypeVar("Result", covariant=True)


class Performed(Protocol[Result]):
    """An order: each rank does its part of it with its own learner, and rank 0 has what comes of it."""

    def perform(self, learner: Learner) -> Result: ...


class Learn(msgspec.Struct, frozen=True, tag=True):
    """One update on this batch; nothing comes of it where its loss is not finite."""

    version: int
    number: int
    """The update's number, from 0."""
    trajectories: tuple[Trajectory, ...]

    def perform(self, learner: Learner) -> Stats | None:
        return learner.learn(self.trajectories, self.version, self.number)


class Gather(msgspec.Struct, frozen=True, tag=True):
    """Put the weights together, under this version."""

    version: int

    def perform(self, learner: Learner) -> WeightUpdate:
        return learner.weights(self.version)


class Save(msgspec.Struct, frozen=True, tag=True):
    """Put together what a checkpoint holds; rank 0 writes it into this directory."""

    directory: str

    def perform(self, learner: Learner) -> None:
        learner.save(Path(self.directory))


class End(msgspec.Struct, frozen=True, tag=True):
    """Training is over."""


class Order(msgspec.Struct, frozen=True):
    """What is sent."""

    to: Learn | Gather | Save | End


def give(ranks: Group, learner: Learner, order: Performed[Result]) -> Result:
    """Rank 0's side: tells the other ranks, and performs its own part."""
    ranks.broadcast(encode({"to": order}))
    return order.perform(learner)


def follow(learner: Learner, ranks: Group) -> None:
    """Another rank's whole life: waits for rank 0's orders, the group's timeout its deadline."""
    while not isinstance(order := decode(ranks.broadcast(None), Order, max_bytes=MAX_BATCH_BYTES).to, End):
        order.perform(learner)


def end(ranks: Group) -> None:
    """Lets the other ranks go."""
    ranks.broadcast(encode(Order(End())))
