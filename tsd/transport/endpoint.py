"""One end of a socket, closed with its `with` block. Knows nothing about what goes through it."""

from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio

from tsd.errors import TransportError


class Endpoint:
    """Holds a socket; on leaving, what is queued in it goes nowhere."""

    _socket: zmq.asyncio.Socket

    def _listen(self, address: str) -> None:
        """Raises TransportError where it cannot, such as at a port in use."""
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._socket.close()
            raise TransportError(f"trainer cannot listen at {address}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close(linger=0)
