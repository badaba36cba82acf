"""A context whose sockets encrypt all that crosses and talk to one public key only, where there are keys.

Knows nothing about what the sockets are for, or how keys are kept.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from tsd.errors import TransportError
from tsd.transport.keys import Keys

DOMAIN = "tsd"


@dataclass(frozen=True, slots=True)
class _Only:
    """Says whether a client may connect: the one whose public key this is."""

    key: bytes

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self.key


@contextmanager
def trainer_context(keys: Keys | None) -> Iterator[zmq.asyncio.Context]:
    """For sockets that listen, with keys to generators alone. To be entered in a running loop."""
    with zmq.asyncio.Context() as context:
        if keys is None:
            yield context
            return
        admission = AsyncioAuthenticator(context)
        admission.configure_curve_callback(DOMAIN, _Only(keys.other))
        admission.start()
        # Whoever connects while nobody is there to ask is turned away.
        admitted: dict[int, int | bytes] = {zmq.ZAP_DOMAIN: DOMAIN.encode(), zmq.ZAP_ENFORCE_DOMAIN: 1}
        try:
            _encrypt(context, keys, {zmq.CURVE_SERVER: 1} | admitted)
            yield context
        finally:
            admission.stop()


@contextmanager
def generator_context(keys: Keys | None) -> Iterator[zmq.asyncio.Context]:
    """For sockets that connect, with keys to a trainer that proves to have its own."""
    with zmq.asyncio.Context() as context:
        if keys is not None:
            _encrypt(context, keys, {zmq.CURVE_SERVERKEY: keys.other})
        yield context


def _encrypt(context: zmq.asyncio.Context, keys: Keys, role: Mapping[int, int | bytes]) -> None:
    """Options of every socket to come. Raises TransportError where one would be open all the same."""
    for option, value in {zmq.CURVE_PUBLICKEY: keys.public, zmq.CURVE_SECRETKEY: keys.secret, **role}.items():
        context.setsockopt(option, value)
    # A context does not say when a socket refuses one of its options.
    with context.socket(zmq.PULL) as socket:
        if socket.getsockopt(zmq.MECHANISM) != zmq.CURVE:
            raise TransportError("transport.keys: the installed ZeroMQ cannot encrypt; install another build of pyzmq")
