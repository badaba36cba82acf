"""What a supervisor needs of whatever starts processes: on this machine (`tsd.run.processes`) or on a cluster
(`tsd.run.seats`).

Knows neither. What processes write comes to the run directory in both cases: metrics, logs, beats, checkpoints.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tsd.config import TransportConfig
from tsd.errors import ProcessError


class Started(Protocol):
    """One life of a process."""

    @property
    def name(self) -> str: ...

    @property
    def returncode(self) -> int | None:
        """None while it runs, and where nobody knows."""

    @property
    def is_lost(self) -> bool:
        """Whether it went with the machine it was on, for no fault of its own."""

    def failure(self) -> ProcessError:
        """What went wrong, once it has ended, in one line."""


class Backend(Protocol):
    """Every process of a run, as a context: leaving it ends them all, whatever happens."""

    gives_up_faults: bool
    """Whether a generator that can name its fault is not started again: its machine lacks something."""

    def sockets(self, config: TransportConfig) -> str:
        """Where generators and trainers meet, as their command lines have it."""

    def environ(self, own: Mapping[str, str]) -> Mapping[str, str]:
        """What a process finds in its environment, given the launcher's own."""

    async def meeting_point(self) -> Mapping[str, str]:
        """Where several trainers find each other, as torch wants to be told."""

    async def spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> Started:
        """Starts a process; what it prints comes to be appended to its log. Raises ProcessError where it cannot."""

    async def wait(self, child: Started) -> int:
        """Waits for its end, however long it runs. Its exit code."""

    def kill_one(self, child: Started) -> None:
        """SIGKILL to it and all it started; `wait` then returns."""

    def kill(self) -> None:
        """SIGKILL to every process of the run, now."""

    async def stop(self, names: Collection[str] | None = None) -> None:
        """Ends all, or those of these names: SIGTERM, a deadline, SIGKILL."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
