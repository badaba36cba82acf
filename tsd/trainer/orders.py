"""What rank 0 of the trainers tells the others to do: learn, and put their parts of the model together.

Every rank does the same at the same time, or all of them wait. Knows nothing about where batches come from.
"""

import msgspec

from tsd.learn.group import Group
from tsd.learn.learner import Learner
from tsd.transport.codec import MAX_BATCH_BYTES, decode, encode
from tsd.types import Trajectory


class Learn(msgspec.Struct, frozen=True, tag=True):
    """One update on this batch."""

    version: int
    number: int
    """Of the update."""
    trajectories: tuple[Trajectory, ...]


class Gather(msgspec.Struct, frozen=True, tag=True):
    """Put the weights together for publishing."""


class Save(msgspec.Struct, frozen=True, tag=True):
    """Put together what a checkpoint holds."""


class End(msgspec.Struct, frozen=True, tag=True):
    """Training is over."""


class Order(msgspec.Struct, frozen=True):
    """What all ranks do next, as rank 0 says."""

    to: Learn | Gather | Save | End


def give(group: Group, to: Learn | Gather | Save | End) -> None:
    """Tells the other ranks what comes next; rank 0 goes on with it itself."""
    group.broadcast(encode(Order(to)))


def follow(learner: Learner, group: Group) -> None:
    """Another rank's whole life: waits for rank 0's orders, the group's timeout its deadline."""
    while True:
        match decode(group.broadcast(None), Order, max_bytes=MAX_BATCH_BYTES).to:
            case Learn(version, number, trajectories):
                learner.learn(trajectories, version, number)
            case Gather():
                learner.weights(0)
            case Save():
                learner.save(None)
            case End():
                return
