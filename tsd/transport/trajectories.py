"""Trajectories from generators to the trainer over PUSH/PULL, each used once however often anything dies.

    Outbox, a generator's end: keeps what is finished in a spool on disk until a checkpoint holds it; sends each
        sender's in the order of serials, and again from where the trainer is when that asks or is a new one
    Inbox, the trainer's end: takes each sender's in that order, and counts what comes twice or too early

Neither waits for an answer: `Progress` tells where the trainer is. Knows nothing about what is in a trajectory, only
that its arrays fit together.
"""

import asyncio
import re
from collections.abc import Sequence

import msgspec
import zmq
import zmq.asyncio

from tsd.errors import FrameError, ProtocolError, TransportError
from tsd.transport.codec import MAX_TRAJECTORY_BYTES, decode
from tsd.transport.cursor import Cursor
from tsd.transport.endpoint import Endpoint
from tsd.transport.progress import Progress
from tsd.transport.spool import Lane
from tsd.transport.validate import validate
from tsd.types import Trajectory

SENDER = re.compile(r"[0-9]{1,6}-[0-9a-z]{1,32}")
"""What generators call their lives: the generator's place, and what tells its lives apart."""


class Refused(msgspec.Struct, frozen=True):
    """In place of a trajectory that cannot be used."""

    sender: str
    serial: int
    reason: str


class Outbox(Endpoint):
    """A generator's end. `run` must run for anything to be sent; `heard` takes what the trainer says."""

    def __init__(
        self, context: zmq.asyncio.Context, address: str, queue: int, own: Lane, left: Sequence[Lane], credit: int
    ) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.set_hwm(queue)
        self._connect(address)
        self.own, self.credit = own, credit
        self._cursors = {lane: Cursor(lane.num_appended, lane.num_saved) for lane in (*left, own)}
        """Those of earlier lives first."""
        self._trainer: tuple[str, int] | None = None
        self.num_absurd = 0
        """Times that the trainer said what cannot be."""
        self._changed = asyncio.Event()
        """There may be something to send, or room."""
        self._writing = asyncio.Lock()

    @property
    def num_out(self) -> int:
        """Its own that are finished, and not yet used."""
        return self.own.num_appended - self._cursors[self.own].used

    async def put(self, trajectories: Sequence[Trajectory], timeout_s: float) -> None:
        """To the spool. Waits while `credit` are out; raises TransportError when the trainer used none for so long."""
        async with self._writing:
            while self.num_out >= self.credit:
                num_out = self.num_out
                try:
                    async with asyncio.timeout(timeout_s):
                        while self.num_out == num_out:
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
                self._cursors[self.own].appended = self.own.num_appended
        self._changed.set()

    async def run(self) -> None:
        """Sends whatever is due until cancelled; waits for trees to finish, and for the trainer to take."""
        while True:
            self._changed.clear()
            for lane, cursor in [*self._cursors.items()]:
                if lane.num_saved < cursor.saved:
                    await asyncio.to_thread(lane.drop, cursor.saved)
                while cursor.due:
                    await self._send(lane, cursor)
                if cursor.saved == cursor.appended and lane is not self.own:
                    del self._cursors[lane]
            await self._changed.wait()

    async def _send(self, lane: Lane, cursor: Cursor) -> None:
        """The next of a lane, unless the trainer asks for another one meanwhile."""
        serial = cursor.next
        assert serial is not None, "something is due"
        frame = await asyncio.to_thread(lane.frame, serial)
        if cursor.send(serial):
            await self._socket.send(frame)

    def heard(self, progress: Progress) -> None:
        """Where the trainer is. A new one, or one that asks, gets again what it has not received."""
        trainer = (progress.life, progress.asked)
        for lane, cursor in self._cursors.items():
            counts = [said.get(lane.sender, 0) for said in (progress.saved, progress.used, progress.received)]
            if not cursor.hear(*counts, anew=trainer != self._trainer, waiting=progress.waiting):
                self.num_absurd += 1
        self._trainer = trainer
        self._changed.set()


class Inbox(Endpoint):
    """The trainer's end, on rank 0; `received` is where each sender stands, the rest what `validate` takes."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: str,
        queue: int,
        received: dict[str, int],
        vocabulary: int | None = None,
        longest: int | None = None,
    ) -> None:
        self._vocabulary, self._longest = vocabulary, longest
        self._socket = context.socket(zmq.PULL)
        self._socket.set_hwm(queue)
        self._socket.maxmsgsize = MAX_TRAJECTORY_BYTES
        self._listen(address)
        self.received = dict(received)
        self.num_duplicates = self.num_early = self.num_damaged = self.num_foreign = 0
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
            if not SENDER.fullmatch(trajectory.sender):
                raise FrameError(f"expected the name of a generator's life, found {trajectory.sender[:40]!r}")
        except ProtocolError:
            self.num_foreign += 1  # and would be again: not asked for
            return None
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
            validate(trajectory, self._vocabulary, self._longest)
        except FrameError as error:
            return Refused(trajectory.sender, trajectory.serial, str(error))
        return trajectory
