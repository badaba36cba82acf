"""Weights from the trainer to generators: `Progress` says that there is a new version, a snapshot socket gives it out.

PUB drops silently, and of a burst the newest first; so it carries no weights, only the news. Who joins late, or was
busy for several versions, asks once and gets the newest. Every update is whole (dense), versioned, and checked tensor
by tensor before anyone sees it.
"""

import asyncio
import math
import zlib
from contextlib import suppress

import msgspec
import numpy as np
import zmq
import zmq.asyncio

from tsd.errors import FrameError, TransportError, WeightsError
from tsd.transport.codec import MAX_WEIGHT_FRAME_BYTES, decode, encode
from tsd.transport.endpoint import Endpoint
from tsd.types import WeightUpdate

SNAPSHOT_REQUEST = b"snapshot"
ASK_AGAIN_S = 10.0


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]
    crc32: int


class _Header(msgspec.Struct, frozen=True):
    version: int
    tensors: tuple[_Tensor, ...]


def encode_update(update: WeightUpdate) -> list[bytes]:
    """A header frame, then one frame of little-endian float32 for each tensor."""
    frames = [np.ascontiguousarray(tensor, "<f4").tobytes() for tensor in update.tensors.values()]
    tensors = tuple(
        _Tensor(name, tensor.shape, zlib.crc32(frame))
        for (name, tensor), frame in zip(update.tensors.items(), frames, strict=True)
    )
    return [encode(_Header(update.version, tensors)), *frames]


def checksum(update: WeightUpdate) -> int:
    """Of names and contents: the same at both ends, or something is wrong."""
    found = 0
    for name in sorted(update.tensors):
        found = zlib.crc32(update.tensors[name].astype("<f4").tobytes(), zlib.crc32(name.encode(), found))
    return found


def num_bytes(update: WeightUpdate) -> int:
    """As it travels, names aside."""
    return sum(4 * tensor.size for tensor in update.tensors.values())


def decode_update(frames: list[bytes]) -> WeightUpdate:
    """Raises WeightsError where a frame is missing, of the wrong size, or damaged."""
    try:
        header = decode(frames[0], _Header)
    except FrameError as error:
        raise WeightsError(f"a weight update has a damaged header: {error}") from None
    if len(frames) != 1 + len(header.tensors):
        raise WeightsError(f"weights {header.version}: expected {len(header.tensors)} tensors, found {len(frames) - 1}")
    tensors: dict[str, np.ndarray] = {}
    for tensor, frame in zip(header.tensors, frames[1:], strict=True):
        if len(frame) != 4 * math.prod(tensor.shape) or zlib.crc32(frame) != tensor.crc32:
            raise WeightsError(f"weights {header.version}: {tensor.name} is damaged (size or checksum)")
        tensors[tensor.name] = np.frombuffer(frame, "<f4").reshape(tensor.shape)
    return WeightUpdate(header.version, tensors)


class WeightPublisher(Endpoint):
    """The trainer's end. `serve` must run for late joiners to get their snapshot."""

    def __init__(self, context: zmq.asyncio.Context, snapshot: str) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._listen(snapshot)
        self._latest: list[bytes] = []

    async def publish(self, update: WeightUpdate) -> None:
        """From now on the one that is given out. Encoding is off the loop: it touches every byte."""
        self._latest = await asyncio.to_thread(encode_update, update)

    async def serve(self) -> None:
        """Answers snapshot requests until cancelled; waits for generators that join."""
        while True:
            peer, *request = await self._socket.recv_multipart()
            if len(request) == 2 and request[0] == SNAPSHOT_REQUEST:
                await self._socket.send_multipart([peer, request[1], *self._latest])


class WeightSubscriber(Endpoint):
    """A generator's end."""

    def __init__(self, context: zmq.asyncio.Context, snapshot: str, ask_again_s: float = ASK_AGAIN_S) -> None:
        self._ask_again_s = ask_again_s
        self._socket = context.socket(zmq.DEALER)
        self._socket.maxmsgsize = MAX_WEIGHT_FRAME_BYTES
        self._socket.connect(snapshot)
        self._num_asked = 0

    async def snapshot(self, timeout_s: float) -> WeightUpdate:
        """The trainer's current weights. Raises TransportError when it does not answer in time.

        Asks again now and then: a trainer that died took the question with it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (frames := await self._ask()) is None:
                    pass
        except TimeoutError:
            raise TransportError(f"generator waits for a weight snapshot: none for {timeout_s} s") from None
        return await asyncio.to_thread(decode_update, frames)

    async def _ask(self) -> list[bytes] | None:
        """The answer to one question, not to an earlier one; None where none came for long."""
        self._num_asked += 1
        number = b"%d" % self._num_asked
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ask_again_s):
                await self._socket.send_multipart([SNAPSHOT_REQUEST, number])
                while True:
                    answered, *frames = await self._socket.recv_multipart()
                    if answered == number:
                        return frames
        return None
