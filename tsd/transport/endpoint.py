"""One end of a socket, closed with its `with` block. Knows nothing about what goes through it."""

from types import TracebackType
from typing import Self

import zmq.asyncio


class Endpoint:
    """Holds a socket; on leaving, what is queued in it goes nowhere."""

    _socket: zmq.asyncio.Socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close(linger=0)
