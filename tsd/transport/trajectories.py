"""Trajectories from generators to the trainer: MessagePack over PUSH/PULL, bounded at both ends.

`send` waits while the trainer's queue is full; `take` waits for generators. Knows nothing about what is in them, only
that their arrays fit together.
"""

import asyncio
from types import TracebackType
from typing import Self

import numpy as np
import zmq
import zmq.asyncio

from tsd.errors import FrameError, TransportError
from tsd.transport.codec import MAX_TRAJECTORY_BYTES, decode, encode
from tsd.types import FIRST, Trajectory


def validate(trajectory: Trajectory) -> None:
    """Raises FrameError where a trajectory's arrays do not fit together or hold what no engine gives."""
    arrays = {"logprobs": trajectory.logprobs, "values": trajectory.values, "versions": trajectory.versions}
    for name, array in arrays.items():
        if len(array) != len(trajectory.tokens):
            raise FrameError(f"trajectory {trajectory.id}: {len(array)} {name} for {len(trajectory.tokens)} tokens")
    steps = {"parents": trajectory.parents, "visits": trajectory.visits, "q": trajectory.q}
    steps["rewards"] = trajectory.rewards
    for name, array in steps.items():
        if len(array) != len(trajectory.lengths):
            raise FrameError(f"trajectory {trajectory.id}: {len(array)} {name} for {len(trajectory.lengths)} steps")
    if (trajectory.lengths < 1).any() or trajectory.lengths.sum() != len(trajectory.tokens):
        raise FrameError(f"trajectory {trajectory.id}: its steps have other tokens than it has")
    if (trajectory.parents < FIRST).any() or (trajectory.parents >= np.arange(len(trajectory.parents))).any():
        raise FrameError(f"trajectory {trajectory.id}: a step follows one that does not come before it")
    if not len(trajectory.prompt) or not len(trajectory.tokens):
        raise FrameError(f"trajectory {trajectory.id}: no prompt or no tokens")
    finite = all(
        np.isfinite(array).all() for array in (trajectory.logprobs, trajectory.values, trajectory.q, trajectory.rewards)
    )
    if not finite or not np.isfinite([trajectory.grade.reward, *trajectory.grade.parts.values()]).all():
        raise FrameError(f"trajectory {trajectory.id}: a logprob, value, Q or reward is not finite")


class TrajectorySender:
    """A generator's end."""

    def __init__(self, context: zmq.asyncio.Context, address: str, queue: int) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.set_hwm(queue)
        self._socket.linger = 0
        self._socket.connect(address)

    async def send(self, trajectory: Trajectory, timeout_s: float) -> None:
        """Raises TransportError when the trainer took nothing for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.send(encode(trajectory))
        except TimeoutError:
            raise TransportError(
                f"generator {trajectory.generator} waits for the trainer: took nothing for {timeout_s} s"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


class TrajectoryReceiver:
    """The trainer's end, on rank 0."""

    def __init__(self, context: zmq.asyncio.Context, address: str, queue: int) -> None:
        self._socket = context.socket(zmq.PULL)
        self._socket.set_hwm(queue)
        self._socket.maxmsgsize = MAX_TRAJECTORY_BYTES
        self._socket.bind(address)

    async def receive(self, timeout_s: float) -> Trajectory:
        """The next trajectory. Raises TransportError when none came for `timeout_s`, FrameError for a damaged one."""
        try:
            async with asyncio.timeout(timeout_s):
                frame = await self._socket.recv()
        except TimeoutError:
            raise TransportError(f"trainer waits for trajectories: none for {timeout_s} s from any generator") from None
        trajectory = decode(frame, Trajectory)
        validate(trajectory)
        return trajectory

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close(linger=0)
