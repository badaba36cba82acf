"""The sockets of a run, by name. Knows the directory they lie in, nothing else."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Addresses:
    """`ipc://` addresses in a directory only this user can enter."""

    directory: Path

    @property
    def trajectories(self) -> str:
        return f"ipc://{self.directory}/trajectories"

    @property
    def progress(self) -> str:
        return f"ipc://{self.directory}/progress"

    @property
    def snapshots(self) -> str:
        return f"ipc://{self.directory}/snapshots"
