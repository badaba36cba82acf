"""Trajectories from generators to the trainer over PUSH/PULL, each used once however often anything dies.

    Outbox, a generator's end: keeps what is finished in a spool on disk until a checkpoint holds it; sends each
        sender's in the order of serials, and again from where the trainer is when that asks or is a new one
    Inbox, the trainer's end: takes each sender's in that order, and counts what comes twice or too early

Neither waits for an answer: `Progress` tells where the trainer is. Knows nothing about what is in a trajectory, only
that its arrays fit together.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import zmq
import zmq.asyncio

from tsd.errors import FrameError, TransportError
from tsd.transport.codec import MAX_TRAJECTORY_BYTES, decode
from tsd.transport.endpoint import Endpoint
from tsd.transport.progress import Progress
from tsd.transport.spool import Lane
from tsd.types import FIRST, Trajectory

STALLED = 3
"""Times the trainer says that it waits for what was sent: it went to one that has died, and is sent again."""
MAX_LOGPROB = 1e-3
"""Rounding may lift the logprob of a certain token a little above 0."""
FIELDS: tuple[tuple[str, type[np.generic], str], ...] = (
    ("prompt", np.int32, "prompt"),
    ("tokens", np.int32, "tokens"),
    ("logprobs", np.float32, "tokens"),
    ("values", np.float32, "tokens"),
    ("versions", np.int32, "tokens"),
    ("lengths", np.int32, "lengths"),
    ("parents", np.int32, "lengths"),
    ("visits", np.int32, "lengths"),
    ("q", np.float32, "lengths"),
    ("rewards", np.float32, "lengths"),
)
"""Each array of a trajectory: its type, and what it is as long as."""


class Refused(msgspec.Struct, frozen=True):
    """In place of a trajectory that cannot be used."""

    sender: str
    serial: int
    reason: str


def validate(trajectory: Trajectory, vocabulary: int | None = None) -> None:
    """Raises FrameError where a trajectory's arrays do not fit together or hold what no engine gives.

    `vocabulary` is how many token ids the model has, where there is one.
    """
    for name, kind, like in FIELDS:
        array = getattr(trajectory, name)
        if array.dtype != kind:
            raise FrameError(f"trajectory {trajectory.id}: expected {name} as {kind.__name__}, found {array.dtype}")
        count = len(getattr(trajectory, like))
        if len(array) != count:
            of = "tokens" if like == "tokens" else "steps"
            raise FrameError(f"trajectory {trajectory.id}: {len(array)} {name} for {count} {of}")
    if (trajectory.lengths < 1).any() or trajectory.lengths.sum() != len(trajectory.tokens):
        raise FrameError(f"trajectory {trajectory.id}: its steps have other tokens than it has")
    if (trajectory.parents < FIRST).any() or (trajectory.parents >= np.arange(len(trajectory.parents))).any():
        raise FrameError(f"trajectory {trajectory.id}: a step follows one that does not come before it")
    if not len(trajectory.prompt) or not len(trajectory.tokens):
        raise FrameError(f"trajectory {trajectory.id}: no prompt or no tokens")
    if min(trajectory.prompt.min(), trajectory.tokens.min(), trajectory.visits.min()) < 0:
        raise FrameError(f"trajectory {trajectory.id}: a token id or count is negative")
    largest = max(trajectory.prompt.max(), trajectory.tokens.max())
    if vocabulary is not None and largest >= vocabulary:
        raise FrameError(f"trajectory {trajectory.id}: token {largest}, but the model has {vocabulary}")
    floats = (trajectory.logprobs, trajectory.values, trajectory.q, trajectory.rewards)
    rewards = [trajectory.grade.reward, *trajectory.grade.parts.values()]
    if not all(np.isfinite(array).all() for array in (*floats, rewards)):
        raise FrameError(f"trajectory {trajectory.id}: a logprob, value, Q or reward is not finite")
    if trajectory.logprobs.max() > MAX_LOGPROB:
        raise FrameError(f"trajectory {trajectory.id}: a logprob of {trajectory.logprobs.max():.3g} is above 0")


class Outbox(Endpoint):
    """A generator's end. `run` must run for anything to be sent; `heard` takes what the trainer says."""

    def __init__(
        self, context: zmq.asyncio.Context, address: str, queue: int, own: Lane, left: Sequence[Lane], credit: int
    ) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.set_hwm(queue)
        self._socket.connect(address)
        self.own, self.credit = own, credit
        self._lanes = [*left, own]
        """Each sender's, those of earlier lives first."""
        self._next: dict[str, int] = {}
        """The serial to send next, by sender; empty until the trainer has said where it is."""
        self._saved: dict[str, int] = {}
        self._used = 0
        self._trainer: tuple[str, int] | None = None
        self._num_stalled = 0
        """Times in a row that the trainer said it waits, while what was sent has not come."""
        self._changed = asyncio.Event()
        """There may be something to send, or room."""
        self._writing = asyncio.Lock()

    @property
    def num_out(self) -> int:
        """Of its own: finished, and not yet used."""
        return self.own.num_appended - self._used

    async def put(self, trajectories: Sequence[Trajectory], timeout_s: float) -> None:
        """To the spool. Waits while `credit` are out; raises TransportError when the trainer used none for so long."""
        async with self._writing:
            while self.num_out >= self.credit:
                used = self._used
                try:
                    async with asyncio.timeout(timeout_s):
                        while self._used == used:
                            self._changed.clear()
                            await self._changed.wait()
                except TimeoutError:
                    raise TransportError(
                        f"generator {self.own.sender} waits for the trainer: {self.num_out} trajectories are out, and "
                        f"none was used for {timeout_s} s"
                    ) from None
            for trajectory in trajectories:
                stamped = msgspec.structs.replace(trajectory, sender=self.own.sender, serial=self.own.num_appended)
                try:
                    await asyncio.to_thread(self.own.append, stamped)
                except OSError as error:
                    raise TransportError(
                        f"cannot write the spool in {self.own.directory}: {error}; free some space"
                    ) from None
        self._changed.set()

    async def run(self) -> None:
        """Sends whatever is due until cancelled; waits for trees to finish, and for the trainer to take."""
        while True:
            self._changed.clear()
            for lane in self._lanes:
                if lane.num_saved < self._saved.get(lane.sender, 0):
                    await asyncio.to_thread(lane.drop, self._saved[lane.sender])
                while (serial := self._next.get(lane.sender, lane.num_appended)) < lane.num_appended:
                    frame = await asyncio.to_thread(lane.frame, serial)
                    if self._next[lane.sender] == serial:  # else the trainer has asked for another one meanwhile
                        self._next[lane.sender] = serial + 1
                        await self._socket.send(frame)
            self._lanes = [lane for lane in self._lanes if lane is self.own or lane.num_saved < lane.num_appended]
            await self._changed.wait()

    def heard(self, progress: Progress) -> None:
        """Where the trainer is: lets go of what is saved, and goes back to what is missing."""
        self._used = progress.used.get(self.own.sender, 0)
        received, trainer = progress.received, (progress.life, progress.asked)
        sent_more = any(self._next[lane.sender] > received.get(lane.sender, 0) for lane in self._lanes if self._next)
        self._num_stalled = self._num_stalled + 1 if progress.waiting and sent_more else 0
        again = trainer != self._trainer or self._num_stalled == STALLED
        self._trainer, self._saved = trainer, progress.saved
        if again:
            self._num_stalled = 0
            self._next = {lane.sender: max(lane.num_saved, received.get(lane.sender, 0)) for lane in self._lanes}
        self._changed.set()


class Inbox(Endpoint):
    """The trainer's end, on rank 0; `received` is where each sender stands, `vocabulary` the number of token ids."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: str,
        queue: int,
        received: dict[str, int],
        vocabulary: int | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._socket = context.socket(zmq.PULL)
        self._socket.set_hwm(queue)
        self._socket.maxmsgsize = MAX_TRAJECTORY_BYTES
        self._listen(address)
        self.received = dict(received)
        self.num_duplicates = self.num_early = self.num_damaged = 0
        self.missing = False
        """Something was damaged or came too early: generators should send again what comes after `received`."""

    async def next(self, timeout_s: float) -> Trajectory | Refused:
        """The next trajectory of any sender, in its order. Raises TransportError when none came for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while (found := self._accept(await self._socket.recv())) is None:
                    pass
                return found
        except TimeoutError:
            raise TransportError(f"trainer waits for trajectories: none for {timeout_s} s from any generator") from None

    def _accept(self, frame: bytes) -> Trajectory | Refused | None:
        """None for what is no trajectory, was here before, or is not yet due."""
        try:
            trajectory = decode(frame, Trajectory)
        except FrameError:
            self.num_damaged += 1
            self.missing = True
            return None
        due = self.received.get(trajectory.sender, 0)
        if trajectory.serial != due:
            self.num_duplicates += trajectory.serial < due
            self.num_early += trajectory.serial > due
            self.missing |= trajectory.serial > due
            return None
        self.received[trajectory.sender] = due + 1
        try:
            validate(trajectory, self._vocabulary)
        except FrameError as error:
            return Refused(trajectory.sender, trajectory.serial, str(error))
        return trajectory
