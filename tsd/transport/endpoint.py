"""One end of a socket, closed with its `with` block. Knows nothing about what goes through it."""

from contextlib import suppress
from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio

from tsd.errors import TransportError


class Endpoint:
    """Holds a socket; on leaving, what is queued in it goes nowhere."""

    _socket: zmq.asyncio.Socket
    _address: str

    def _connect(self, address: str) -> None:
        self._address = address
        self._socket.connect(address)

    def move(self, address: str) -> None:
        """Talks to another address from now on; what was on its way to the old one is dropped."""
        if address != self._address:
            with suppress(zmq.ZMQError):  # there was no answer from it yet
                self._socket.disconnect(self._address)
            self._connect(address)

    def _listen(self, address: str) -> None:
        """Raises TransportError where it cannot, such as at a port in use."""
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._socket.close()
            raise TransportError(f"trainer cannot listen at {address}: {error.strerror}") from None

    @property
    def endpoint(self) -> str:
        """Where it listens: with the port that was free, where it was to take any."""
        found = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(found, bytes)
        return found.rstrip(b"\0").decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close(linger=0)
