"""The sockets of a run, by name: where they are, and where a launch puts them. Knows nothing about who may connect."""

import secrets
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from tsd.config import TransportConfig

TCP = "tcp://"
QUIET = range(20_000, 32_000)
"""Linux gives connections ports from 32,768 on."""
NAMES = ("trajectories", "progress", "snapshots")


@dataclass(frozen=True, slots=True)
class Addresses:
    """One `ipc://` address for each name, in a directory only this user can enter; or `tcp://` ports in a row."""

    base: str | Path
    """The directory, or `tcp://HOST:PORT` with the first of the ports."""

    @property
    def trajectories(self) -> str:
        return self._of("trajectories")

    @property
    def progress(self) -> str:
        return self._of("progress")

    @property
    def snapshots(self) -> str:
        return self._of("snapshots")

    def _of(self, name: str) -> str:
        base = str(self.base)
        if not base.startswith(TCP):
            return f"ipc://{base}/{name}"
        host, _, port = base.rpartition(":")
        return f"{host}:{int(port) + NAMES.index(name)}"


def choose_base(config: TransportConfig, directory: Path) -> str:
    """What `Addresses` of a new launch are made of, as its processes are told: where `ipc`, in that directory.

    Raises ValueError where the host is not one of this machine's, or has no three free ports.
    """
    if config.scheme == "ipc":
        return str(directory)
    return f"{TCP}{config.host}:{config.port or _free_ports(config.host)}"


def quiet_port(host: str, count: int) -> int:
    """The first of so many free ports in a row, of those that the system gives to no connection by itself: it may take
    a while until somebody listens there.

    Raises ValueError where there are none.
    """
    for _ in range(200):
        first = secrets.choice(QUIET)
        with ExitStack() as held, suppress(OSError):
            for offset in range(count):
                held.enter_context(socket.socket()).bind((host, first + offset))
            return first
    raise ValueError(f"no {count} free ports in a row at {host} from {QUIET.start} to {QUIET.stop}")


def _free_ports(host: str) -> int:
    """The first of as many as there are names, all of them free a moment ago."""
    error = OSError()
    for _ in range(20):
        port = 0
        try:
            with ExitStack() as held:
                for offset in range(len(NAMES)):
                    probe = held.enter_context(socket.socket())
                    probe.bind((host, port + offset if port else 0))
                    port = port or probe.getsockname()[1]
                return port
        except (OSError, OverflowError) as refused:  # the second or third may be taken, or past the last port
            error = OSError(refused)
    raise ValueError(f"transport.host: no three free ports in a row at {host}: {error}")
