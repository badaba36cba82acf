"""What a generator has finished, on disk until a checkpoint of the trainer holds it.

One folder a run; in it files of numbered frames, a sender's in the order of their serials. A file is complete before
anything of it is sent, so that a generator killed at any moment leaves whatever it had finished to the next one.
Knows nothing about sockets.
"""

import errno
import io
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from tsd.transport.codec import encode
from tsd.types import Trajectory

SPOOL = "spool"
"""The folder's name in a run directory."""
FRAMES_PER_FILE = 32
_HEAD = struct.Struct("<QI")
"""Serial and size before each frame, which has a checksum of its own."""


class Lane:
    """One sender's trajectories: appended at one end, dropped at the other. Any thread may call it."""

    def __init__(self, directory: Path, sender: str) -> None:
        self.directory, self.sender = directory, sender
        self.num_appended = 0
        """The serial that comes next."""
        self.num_saved = 0
        """Serials below this are in a checkpoint, and may be gone from here."""
        self._open: Path | None = None
        self._frames: dict[int, bytes] = {}
        """Frames of the file read last."""
        self._lock = threading.Lock()

    def append(self, trajectory: Trajectory) -> None:
        """To the disk's cache, which outlives this process. Raises OSError where the disk refuses."""
        assert (trajectory.sender, trajectory.serial) == (self.sender, self.num_appended)
        frame, path = encode(trajectory), self._file(self.num_appended)
        with self._lock:
            with path.open("ab", buffering=0) as file:
                _write_whole(file, _HEAD.pack(self.num_appended, len(frame)) + frame)
            if path == self._open:
                self._frames[self.num_appended] = frame
            self.num_appended += 1

    def frame(self, serial: int) -> bytes:
        """One of those appended and not yet dropped. The file it is in is read once for all of its frames."""
        assert self.num_saved <= serial < self.num_appended
        with self._lock:
            if serial not in self._frames:
                self._open = self._file(serial)
                self._frames = dict(_read(self._open))
            return self._frames[serial]

    def drop(self, num_saved: int) -> None:
        """Lets go of the files whose frames are all below `num_saved`."""
        with self._lock:
            first = self.num_saved - self.num_saved % FRAMES_PER_FILE
            self.num_saved = max(self.num_saved, min(num_saved, self.num_appended))
            for serial in range(first, self.num_saved - FRAMES_PER_FILE + 1, FRAMES_PER_FILE):
                self._file(serial).unlink(missing_ok=True)
            if self.num_saved == self.num_appended > 0:
                self._file(self.num_saved - 1).unlink(missing_ok=True)

    def _file(self, serial: int) -> Path:
        return self.directory / f"{self.sender}.{serial // FRAMES_PER_FILE:08d}"


def leftovers(directory: Path, index: int, num_generators: int) -> list[Lane]:
    """What earlier lives of a generator left; of generators that are no more, too, shared out evenly."""
    lanes: dict[str, Lane] = {}
    for path in sorted(directory.glob("*.[0-9]*")):
        sender = path.name.rpartition(".")[0]
        if int(sender.partition("-")[0]) % num_generators != index:
            continue
        for serial, _ in _read(path):
            lane = lanes.setdefault(sender, Lane(directory, sender))
            if not lane.num_appended:
                lane.num_saved = serial
            lane.num_appended = serial + 1
    return list(lanes.values())


def appended(directory: Path) -> dict[str, int]:
    """The serial that comes next of each sender with a file there; reads the last file of each, and of it no frame."""
    last = {path.name.rpartition(".")[0]: path for path in sorted(directory.glob("*.[0-9]*"))}
    return {sender: _next_serial(path) for sender, path in last.items()}


def _next_serial(path: Path) -> int:
    found = int(path.name.rpartition(".")[2]) * FRAMES_PER_FILE
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                serial, size = _HEAD.unpack(head)
                if file.tell() + size > end:
                    break
                found = serial + 1
                file.seek(size, os.SEEK_CUR)
    except FileNotFoundError:
        pass  # it was let go of: a checkpoint holds what was in it
    return found


def _write_whole(file: io.FileIO, data: bytes) -> None:
    """All of it or nothing: behind half a frame no other would be found. Raises OSError where the disk refuses."""
    end = file.seek(0, os.SEEK_END)
    try:
        if file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(end)
        raise


def _read(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole frames of a file; a last one cut short was never sent, and is none."""
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at + _HEAD.size <= len(data):
        serial, size = _HEAD.unpack_from(data, at)
        frame = data[at + _HEAD.size : at + _HEAD.size + size]
        if len(frame) < size:
            return
        yield serial, frame
        at += _HEAD.size + size
