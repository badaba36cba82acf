"""What the trainer tells every generator over PUB: where it stands. Not an event but a state, so losing one is no loss.

    generators wait for it   to learn that there are new weights, how much may be out, and what is in a checkpoint
    the trainer              says it whenever something changed, and once a second

Knows nothing about what generators make of it.
"""

import asyncio
from typing import Annotated

import msgspec
import zmq
import zmq.asyncio

from tsd.errors import FrameError, ProtocolError, TransportError
from tsd.transport.codec import decode, encode
from tsd.transport.endpoint import Endpoint

MAX_PROGRESS_BYTES = 2**20
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Counts are of a sender's trajectories in the order of their serials, so that each is the next serial due."""

    life: Annotated[str, msgspec.Meta(max_length=64)]
    """Tells this trainer from one that had its place before."""
    version: Count
    """Version of the weights that generators should have."""
    received: dict[str, Count]
    used: dict[str, Count]
    """Trained on, or refused and counted."""
    saved: dict[str, Count]
    """Those used that a checkpoint holds: nobody needs them any more."""
    asked: Count
    """Grows when something is missing: what comes after `received` is to be sent again."""
    waiting: bool = False
    """It has nothing to do until a trajectory comes."""


class ProgressPublisher(Endpoint):
    """The trainer's end."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self._socket = context.socket(zmq.PUB)
        self._listen(address)

    async def tell(self, progress: Progress) -> None:
        await self._socket.send(encode(progress))


class ProgressSubscriber(Endpoint):
    """A generator's end."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.maxmsgsize = MAX_PROGRESS_BYTES
        self._connect(address)
        self._socket.subscribe(b"")
        self.num_damaged = 0

    async def newest(self, timeout_s: float) -> Progress:
        """The last thing said. Raises TransportError when nothing was for `timeout_s`, ProtocolError where the trainer
        is of another version of tsd."""
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    frame = await self._socket.recv()
            except TimeoutError:
                raise TransportError(f"generator waits for the trainer: not a word for {timeout_s} s") from None
            while await self._socket.poll(timeout=0):
                frame = await self._socket.recv()
            try:
                return decode(frame, Progress, max_bytes=MAX_PROGRESS_BYTES)
            except ProtocolError:
                raise
            except FrameError:
                self.num_damaged += 1  # the next one says as much
