"""A run directory on a node, and the run's own on the launcher's machine: what is written there comes to be here.

    growing files    metrics, logs: in pieces, from where the launcher's copy ends; rows are never cut
    whole files      evaluations, calibrations, a tree at a glance: when they change
    checkpoints      file by file, then renamed, so that nobody sees half of one

No shared file system is needed. Knows nothing about how pieces travel (`tsd.run.seats`).
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tsd.errors import DiskError
from tsd.learn.checkpoint import BEST, WAITING, checkpoints_dir, prune
from tsd.observe.live import GLANCE_FILE
from tsd.observe.metrics import METRICS_FILE
from tsd.run.books import USED_FILE
from tsd.run.child import BEATS
from tsd.search.calibration import RUNNING

ROWS = (METRICS_FILE, USED_FILE)
GROWING = ("logs/*.log", "tensorboard/*")
WHOLE = ("before.json", "after.json", GLANCE_FILE, RUNNING.format("*"), "not-finite-*.msgpack")
PIECE_BYTES = 2**20
"""Most of one file in one report."""


@dataclass(frozen=True)
class Piece:
    """Some of a file, or all of it."""

    name: str
    """Its path in the run directory."""
    at: int
    """Where it begins; of a whole file, when that was written."""
    data: bytes
    is_whole: bool = False


def pieces(run_dir: Path, have: Mapping[str, int]) -> list[Piece]:
    """What the launcher does not have yet, given what it has: of growing files how much, of whole files which."""
    return [*_grown(run_dir, have), *_changed(run_dir, have)]


def _grown(run_dir: Path, have: Mapping[str, int]) -> Iterator[Piece]:
    others = (path for pattern in GROWING for path in sorted(run_dir.glob(pattern)))
    for path in (*(run_dir / name for name in ROWS), *others):
        name = str(path.relative_to(run_dir))
        at = have.get(name, 0)
        if not path.exists() or path.stat().st_size <= at:
            continue
        with path.open("rb") as file:
            file.seek(at)
            data = file.read(PIECE_BYTES)
        if name in ROWS:
            data = data[: data.rfind(b"\n") + 1]
        if data:
            yield Piece(name, at, data)


def _changed(run_dir: Path, have: Mapping[str, int]) -> Iterator[Piece]:
    for path in (path for pattern in WHOLE for path in sorted(run_dir.glob(pattern))):
        with suppress(FileNotFoundError):  # it may go at any moment
            name, when = path.name, path.stat().st_mtime_ns
            if have.get(name) != when:
                yield Piece(name, when, path.read_bytes(), is_whole=True)


def beats(run_dir: Path) -> dict[str, int]:
    """When each process last beat, by the node's clock: only a change means anything."""
    return {path.name: path.stat().st_mtime_ns for path in (run_dir / BEATS).glob("*")}


@dataclass
class Mirror:
    """The launcher's side, of one node's directory."""

    run_dir: Path
    have: dict[str, int] = field(default_factory=dict)
    beaten: dict[str, int] = field(default_factory=dict)

    def take(self, found: list[Piece], beats: Mapping[str, int]) -> None:
        """Raises DiskError where the disk takes none of it."""
        try:
            for piece in found:
                self._write(piece)
            for name, when in beats.items():
                if self.beaten.get(name) != when:
                    self.beaten[name] = when
                    _beat(self.run_dir, name)
        except OSError as error:
            raise DiskError(f"cannot write {self.run_dir}: {error.strerror}; free some space, then resume") from None

    def _write(self, piece: Piece) -> None:
        path = _inside(self.run_dir, piece.name)
        if piece.is_whole:
            # A host that is lost may be read still while another one has its place.
            partial = path.with_name(f"{path.name}.{id(self):x}.partial")
            partial.write_bytes(piece.data)
            partial.replace(path)
            self.have[piece.name] = piece.at
        elif piece.at == self.have.get(piece.name, 0):
            path.parent.mkdir(exist_ok=True)
            with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                if size and not piece.at and os.pread(file.fileno(), 1, size - 1) != b"\n":
                    file.write(b"\n")  # a killed launcher may have cut a line short
                file.write(piece.data)
            self.have[piece.name] = piece.at + len(piece.data)


def checkpoint_files(checkpoint: Path) -> dict[str, int]:
    """The files of a checkpoint, with their sizes; marks are not of it."""
    return {path.name: path.stat().st_size for path in sorted(checkpoint.iterdir()) if path.name not in (WAITING, BEST)}


def begin_copy(run_dir: Path, name: str) -> Path:
    """A new directory for a copy of a checkpoint."""
    partial = checkpoints_dir(run_dir) / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def end_copy(run_dir: Path, partial: Path, num_kept: int) -> Path:
    """The copy is whole: it becomes the newest checkpoint, and the oldest go."""
    final = partial.with_suffix("")
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    prune(run_dir, num_kept)
    return final


def _beat(run_dir: Path, name: str) -> None:
    path = _inside(run_dir, f"{BEATS}/{name}")
    path.parent.mkdir(exist_ok=True)
    path.touch()


def _inside(run_dir: Path, name: str) -> Path:
    """A path of the run directory. Nothing that comes from a node names one elsewhere."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise DiskError(f"a node names a file outside of the run directory: {name}")
    return run_dir / name
