"""Weights from the trainer to generators: `Progress` says that there is a new version, a snapshot socket gives it out.

    a generator says      who it is (`Hello`), and which weights it has
    the trainer answers   with the deltas that lead from those to its newest, with the newest whole, or with a refusal

Where there are many generators they hand on what they got, as a tree does: each asks another one first, and the trainer
where that does not answer, so that few copies leave the trainer however many generators there are.

PUB drops silently, and of a burst the newest first; so it carries no weights, only the news. Who joins late, was busy
for many versions, has another trainer's weights, or cannot apply what it got, gets the whole. What comes out has the
checksum that the trainer's weights have, or nobody sees it. Knows nothing about engines and learners.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

import msgspec
import zmq
import zmq.asyncio

from tsd.errors import FrameError, ProtocolError, TransportError, WeightsError
from tsd.transport.codec import MAX_WEIGHT_FRAME_BYTES, decode, encode
from tsd.transport.deltas import Frame, History, checksum
from tsd.transport.endpoint import Endpoint
from tsd.transport.hello import Hello, mismatch
from tsd.transport.replica import Replica
from tsd.types import WeightUpdate

ASK_AGAIN_S = 10.0
MAX_QUESTION_BYTES = 4096

Report = Callable[[str], None]


class _Question(msgspec.Struct, frozen=True):
    hello: Hello
    life: str
    """Life of the trainer whose weights it has; empty where it has none, or wants them whole."""
    version: int


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the frames after it are: parts, one after the other."""

    refusal: str = ""
    """Why there are none."""
    life: str
    version: int
    checksum: int = 0
    """Checksum of the weights that come out."""
    num_frames: tuple[int, ...] = ()
    """Frames of each part."""
    num_changed: int = 0
    """Elements that the parts change, in all."""
    is_delta: bool = False
    is_elsewhere: bool = False
    """Who was asked does not have what leads from there; the trainer has."""


@dataclass(frozen=True)
class Fetched:
    """Weights as a generator got them, and what that took."""

    update: WeightUpdate
    """The subscriber's own: they change with the next `fetch`."""
    life: str
    checksum: int
    is_delta: bool
    num_bytes: int
    """On the wire."""
    num_changed: int
    """Elements, of several deltas in all; every one where it is no delta."""
    wire_s: float
    """From the question to its answer."""
    decode_s: float
    """To decode, apply and check."""
    frames: Sequence[Frame]
    """The answer as it came, for those that this one hands it on to."""
    base: tuple[str, int]
    """Life and version of the weights that it was asked for with."""


class _Server(Endpoint):
    """Who gives weights out. `serve` must run for anybody to get any."""

    def __init__(self, context: zmq.asyncio.Context, address: str, hello: Hello, life: str, report: Report) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.maxmsgsize = MAX_QUESTION_BYTES
        self._listen(address)
        self.hello, self.life, self._report = hello, life, report
        self.num_refused: Counter[str] = Counter()
        """Questions, by what was wrong with who asked."""
        self.num_damaged = 0
        """Messages that were no questions."""
        self.num_answers = 0
        """Times that weights were given out."""
        self.sent_bytes = 0
        """Bytes that left with these."""

    async def serve(self) -> None:
        """Answers questions until cancelled; waits for generators that join, or hear of new weights."""
        while True:
            peer, *request = await self._socket.recv_multipart()
            if len(request) != 2:
                self.num_damaged += 1
            elif frames := await self._answer(peer, *request):
                await self._send(peer, request[0], frames)

    async def _send(self, peer: bytes, number: bytes, frames: Sequence[Frame]) -> None:
        if len(frames) > 1:
            self.num_answers += 1
            self.sent_bytes += sum(map(len, frames))
        # Not copied: a version's tensors and frames stay as they are.
        await self._socket.send_multipart([peer, number, *frames], copy=False)

    async def _answer(self, peer: bytes, number: bytes, question: bytes) -> Sequence[Frame]:
        """None at all to what is no question."""
        try:
            asked = decode(question, _Question)
        except ProtocolError as error:
            return self._refuse("protocol", str(error))
        except FrameError:
            self.num_damaged += 1
            return []
        if wrong := mismatch(self.hello, asked.hello):
            return self._refuse(*wrong)
        return await self._give(peer, number, asked)

    async def _give(self, peer: bytes, number: bytes, asked: _Question) -> Sequence[Frame]:
        """None at all where there is nothing to give yet."""
        raise NotImplementedError

    def _refuse(self, name: str, why: str) -> list[Frame]:
        self.num_refused[name] += 1
        self._report(f"refused a generator: {why}")
        return [encode(_Answer(refusal=why, life=self.life, version=-1))]


class WeightPublisher(_Server):
    """The trainer's end."""

    def __init__(
        self, context: zmq.asyncio.Context, snapshot: str, hello: Hello, life: str, report: Report = lambda text: None
    ) -> None:
        super().__init__(context, snapshot, hello, life, report)
        self.history: History | None = None
        """None until the first `publish`."""

    async def publish(self, update: WeightUpdate) -> History:
        """From now on the one that is given out; its tensors must stay as they are. Encoding is off the loop."""
        then = History.begin if self.history is None else self.history.then
        self.history = await asyncio.to_thread(then, update)
        return self.history

    async def _give(self, peer: bytes, number: bytes, asked: _Question) -> Sequence[Frame]:
        if self.history is None:
            return []  # it asks again
        parts = self.history.since(asked.version if asked.life == self.life else None)
        answer = _Answer(
            life=self.life,
            version=self.history.update.version,
            checksum=self.history.checksum,
            num_frames=tuple(len(part.frames) for part in parts),
            num_changed=sum(part.num_changed for part in parts),
            is_delta=parts[0].base is not None,
        )
        return [encode(answer), *(frame for part in parts for frame in part.frames)]


class WeightRelay(_Server):
    """A generator that hands on what it got, as it came. Who has the same weights already waits for the next ones; who
    can do nothing with what came is sent to the trainer."""

    def __init__(
        self, context: zmq.asyncio.Context, address: str, hello: Hello, report: Report = lambda text: None
    ) -> None:
        super().__init__(context, address, hello, "", report)
        self._has: Fetched | None = None
        self._waiting: dict[bytes, tuple[bytes, _Question]] = {}
        """The last question of each that waits, by who asked."""

    async def take(self, fetched: Fetched) -> None:
        """From now on these are given out, to those that wait for them first."""
        self._has, self.life = fetched, fetched.life
        waiting, self._waiting = self._waiting, {}
        for peer, (number, asked) in waiting.items():
            if frames := await self._give(peer, number, asked):
                await self._send(peer, number, frames)

    async def _give(self, peer: bytes, number: bytes, asked: _Question) -> Sequence[Frame]:
        has = self._has
        if has is None or (asked.life, asked.version) == (has.life, has.update.version):
            self._waiting[peer] = (number, asked)
            return []
        if not has.is_delta or (asked.life, asked.version) == has.base:
            return has.frames
        return [encode(_Answer(life=has.life, version=has.update.version, is_elsewhere=True))]


class WeightSubscriber(Endpoint):
    """A generator's end. Keeps the last weights, and applies deltas to them."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        snapshot: str,
        hello: Hello,
        ask_again_s: float = ASK_AGAIN_S,
        report: Report = lambda text: None,
    ) -> None:
        self._ask_again_s, self._report = ask_again_s, report
        self._socket = context.socket(zmq.DEALER)
        self._socket.maxmsgsize = MAX_WEIGHT_FRAME_BYTES
        self._connect(snapshot)
        self._parent: tuple[str, zmq.asyncio.Socket] | None = None
        self._hello, self._nothing = hello, _Question(hello, "", -1)
        self._has, self._replica, self._num_asked = self._nothing, Replica(), 0
        self._open: set[bytes] = set()
        """Questions whose answers are still of use: those of this `fetch`, about the weights that it has."""

    @property
    def life(self) -> str:
        """The trainer's life that its weights are of; empty where it has none."""
        return self._has.life

    def ask_first(self, context: zmq.asyncio.Context, address: str) -> None:
        """A generator that hands weights on, before the trainer; none where the address is empty."""
        if self._parent is not None:
            if self._parent[0] == address:
                return
            self._parent[1].close(linger=0)
            self._parent = None
        if address:
            socket = context.socket(zmq.DEALER)
            socket.maxmsgsize = MAX_WEIGHT_FRAME_BYTES
            socket.connect(address)
            self._parent = address, socket

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parent is not None:
            self._parent[1].close(linger=0)
        super().__exit__(kind, error, trace)
        self._replica.close()

    async def fetch(self, timeout_s: float) -> Fetched:
        """The trainer's current weights. Raises TransportError when it does not answer in time or refuses, WeightsError
        when even whole weights come damaged.

        Asks again now and then, and each time later, since large weights take their time: a trainer that died took the
        question with it. Where another generator is to be asked first, it and the trainer are asked in turn.
        """
        turn = 0
        self._open.clear()
        try:
            async with asyncio.timeout(timeout_s):
                while (fetched := await self._try(turn)) is None:
                    turn += 1
        except TimeoutError:
            raise TransportError(f"generator waits for a weight snapshot: none for {timeout_s} s") from None
        self._has = _Question(self._hello, fetched.life, fetched.update.version)
        return fetched

    async def _try(self, turn: int) -> Fetched | None:
        """None where no answer came for long, or somebody else must be asked, or what came must be asked for whole."""
        started = time.monotonic()
        socket = self._parent[1] if self._parent and turn % 2 == 0 else self._socket
        frames = await self._ask(socket, self._ask_again_s * 2**turn)
        if frames is None:
            return None
        wire_s, had, self._has = time.monotonic() - started, self._has, self._nothing
        try:
            fetched = await asyncio.to_thread(_take, frames, self._replica, (had.life, had.version), wire_s)
        except WeightsError as error:
            if had is self._nothing:
                raise
            self._report(f"{error}; asks for the whole weights")
            self._open.clear()
            return None
        if fetched is None:
            self._has = had
        return fetched

    async def _ask(self, socket: zmq.asyncio.Socket, seconds: float) -> list[Frame] | None:
        """The answer to this question, or to one before that asked for the same, since large weights may take longer;
        None where none came for long."""
        self._num_asked += 1
        number = b"%d" % self._num_asked
        self._open.add(number)
        # A socket that is closed meanwhile, since somebody else is to be asked, gives no answer.
        with suppress(TimeoutError, zmq.ZMQError):
            async with asyncio.timeout(seconds):
                await socket.send_multipart([number, encode(self._has)])
                while True:
                    answered, *frames = await socket.recv_multipart(copy=False)
                    if answered.bytes in self._open:
                        return [frame.buffer for frame in frames]
        return None


def _take(frames: Sequence[Frame], replica: Replica, asked: tuple[str, int], wire_s: float) -> Fetched | None:
    """What an answer's frames make of the weights there were; None where they are elsewhere. Raises TransportError
    where they are a refusal, WeightsError where they do not make what the trainer has."""
    started = time.monotonic()
    try:
        answer = decode(bytes(frames[0]), _Answer)
    except ProtocolError:
        raise
    except (FrameError, IndexError) as error:
        raise WeightsError(f"an answer with weights has a damaged header: {error}") from None
    if answer.refusal:
        raise TransportError(f"the trainer refused this generator: {answer.refusal}")
    if answer.is_elsewhere:
        return None
    rest = iter(frames[1:])
    update = replica.take([list(islice(rest, count)) for count in answer.num_frames])
    is_right = update.version == answer.version and checksum(update, replica.digests) == answer.checksum
    if not is_right or next(rest, None) is not None:
        raise WeightsError(f"weights {answer.version} are not as the trainer has them")
    return Fetched(
        update=update,
        life=answer.life,
        checksum=answer.checksum,
        is_delta=answer.is_delta,
        num_bytes=sum(map(len, frames)),
        num_changed=answer.num_changed,
        wire_s=wire_s,
        decode_s=time.monotonic() - started,
        frames=frames,
        base=asked,
    )
