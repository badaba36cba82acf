"""[transport]: where generators and trainers meet, who may, and how long they wait. Knows nothing about sockets."""

from ipaddress import AddressValueError, IPv4Address
from typing import Literal

from msgspec import Struct

from tsd.config.numbers import Count, Port, Positive


class TransportConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[transport]: sockets between generators and trainers."""

    scheme: Literal["ipc", "tcp"] = "ipc"
    """`ipc` sockets in the run's own temporary folder: one machine, no port open to anyone. `tcp` where generators run
    on other machines too."""
    host: str = "127.0.0.1"
    """tcp: the IPv4 address at which the trainer listens and generators find it. Another one than this machine's own
    127.0.0.1 takes `keys`."""
    port: Port = 0
    """tcp: the first of three ports in a row; 0 takes free ones."""
    keys: str = ""
    """A directory that `tsd keys` made: all that crosses is encrypted, and only who has these keys is talked to."""
    credit: Count = 64
    """Trajectories of one generator that may be out, finished and not in a batch yet; then it starts no more trees."""
    queue: Count = 64
    """Most trajectories waiting at either end."""
    frozen_s: Positive = 30.0
    """How long a generator's or trainer's event loop may stand still before the launcher kills and replaces it."""
    timeout_s: Positive = 600.0
    """How long one side waits for the other before the run ends with an error that names both."""

    def __post_init__(self) -> None:
        try:
            host = IPv4Address(self.host)
        except AddressValueError:
            raise ValueError(f"host: expected an IPv4 address such as 10.0.0.5, found {self.host!r}") from None
        if self.scheme == "tcp" and not host.is_loopback and not self.keys:
            raise ValueError(
                f"host: {host} can be reached from other machines; run `tsd keys DIR` and set transport.keys=DIR"
            )
