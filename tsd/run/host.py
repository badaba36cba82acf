"""What runs on a node of a cluster: the owner of the processes of one place there, in a directory of their own.

It lives in a Ray actor, which `tsd.run.seats` asks from the launcher's machine. When the actor goes, however it goes,
the guardian of its `Children` ends what it started and removes the directory. Does not import ray, and knows nothing
about what its processes do.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tsd import __version__
from tsd.config import load_config, save_config
from tsd.config.whole import write_whole
from tsd.learn.checkpoint import COPIED_FILE, checkpoints_dir, latest_checkpoint, signature
from tsd.observe.metrics import ProcessRow
from tsd.run.child import BEATS
from tsd.run.identity import RUN_ID_FILE
from tsd.run.mirror import Piece, beats, checkpoint_files, pieces
from tsd.run.processes import Child, Children, meeting_point
from tsd.transport.addresses import NAMES, TCP, quiet_port
from tsd.transport.meeting import Meeting, write_meeting
from tsd.transport.spool import SPOOL, appended

PYTHON, RUN_DIR, SOCKETS, RELAY = "@python", "@run", "@sockets", "@relay"
"""In a command line: what only its node knows."""
MODEL = "model-"
"""A directory of a host begins so that holds the model which the run starts from."""

Parcel = Sequence[tuple[str, Sequence[Awaitable[bytes]]]]
"""Files by their paths, each in pieces: references into Ray's object store."""


@dataclass(frozen=True)
class About:
    """What the hosts of one role are told of their run."""

    version: str
    """The launcher's tsd."""
    config: bytes
    run_id: str
    keys: Mapping[str, bytes]
    """Files of keys, of this role alone."""
    has_model: bool
    """Whether the model's files are sent along."""
    grace_s: float


@dataclass(frozen=True)
class Opened:
    """Where a host is."""

    address: str
    sockets: str
    """Where a trainer on it listens."""
    relay: str
    """Where a generator on it hands weights on."""


@dataclass(frozen=True)
class Report:
    """What is new on a host."""

    pieces: list[Piece]
    beats: dict[str, int]
    codes: dict[str, int]
    """Exit codes of the processes that have ended."""
    lanes: dict[str, int]
    """How many trajectories each sender has finished, of those that are still in the spool here."""
    checkpoint: str
    """The signature of the newest checkpoint; empty where there is none."""


class Host:
    """The processes of one place, on one node."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._children: Children
        self._run: Path
        self._opened: Opened
        self._alive: dict[str, Child] = {}
        self._late: list[ProcessRow] = []

    async def open(self, about: About, address: str, model: Parcel) -> Opened:
        """Makes the directory. Raises ValueError where this node has another tsd."""
        if about.version != __version__:
            raise ValueError(f"node {address} has tsd {__version__}, and the launcher {about.version}")
        os.umask(0o077)
        # Ray ends the children of an actor that it ends.
        place = tempfile.gettempdir()
        children = Children(about.grace_s, report=self._late.append, place=place, is_hosted=True)
        self._children = await self._stack.enter_async_context(children)
        scratch = self._children.scratch
        self._run = scratch / "run"
        for directory in (self._run, scratch / "keys", scratch / "tmp", self._run / SPOOL, self._run / BEATS):
            directory.mkdir()
        for name, key in about.keys.items():
            (scratch / "keys" / name).write_bytes(key)
        (self._run / RUN_ID_FILE).write_text(about.run_id)
        (self._run / COPIED_FILE).touch()
        if about.has_model:
            await self._bring_model(scratch / f"{MODEL}{about.run_id.strip()}", model)
        self._opened = await asyncio.to_thread(self._configure, about, address)
        return self._opened

    async def _bring_model(self, directory: Path, model: Parcel) -> None:
        """Once for a node: another host's files are this one's too, by hard links, which outlive the other."""
        if not await asyncio.to_thread(_link_from_another, directory):
            partial = directory.with_suffix(".partial")
            await _unpack(partial, model)
            partial.rename(directory)

    def _configure(self, about: About, address: str) -> Opened:
        """The run's configuration, with what is this node's own in it."""
        path, scratch = self._run / "config.toml", self._children.scratch
        path.write_bytes(about.config)
        config = load_config(path)
        replace = msgspec.structs.replace
        transport = replace(config.transport, scheme="tcp", host=address, port=0, keys=str(scratch / "keys"))
        model = config.model
        if about.has_model:
            model = replace(model, path=str(scratch / f"{MODEL}{about.run_id.strip()}"))
        save_config(replace(config, transport=transport, model=model), path)
        port = quiet_port(address, len(NAMES) + 1)
        return Opened(address, f"{TCP}{address}:{port}", f"{TCP}{address}:{port + len(NAMES)}")

    async def unpack(self, parcel: Parcel) -> str:
        """Files that come from the launcher, into the run directory. The newest checkpoint's signature, which need not
        go back."""
        await _unpack(self._run, parcel)
        await self.copied(self._newest())
        return self._newest()

    async def put(self, name: str, data: bytes) -> int:
        """One small file, as a whole. When it was written: it need not go back."""
        await asyncio.to_thread(write_whole, self._run / name, data)
        return (self._run / name).stat().st_mtime_ns

    async def meet(self, meeting: Meeting) -> None:
        """Tells the generator here where the trainer is, and whom to ask for weights."""
        await asyncio.to_thread(write_meeting, self._run, meeting)

    async def meeting_point(self) -> dict[str, str]:
        """Where the trainers find each other, if the first of them is here."""
        return meeting_point(self._opened.address)

    async def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Starts a process, which sees the devices that were given to this actor. Raises ProcessError."""
        meant = {
            PYTHON: sys.executable,
            RUN_DIR: str(self._run),
            SOCKETS: self._opened.sockets,
            RELAY: self._opened.relay,
        }
        words = []
        for word in argv:
            for placeholder, own in meant.items():
                word = word.replace(placeholder, own)
            words.append(word)
        logs = self._run / "logs"
        logs.mkdir(exist_ok=True)
        whole = {**os.environ, **env, "TMPDIR": str(self._children.scratch / "tmp")}
        self._alive[name] = await self._children.spawn(name, words, whole, logs / f"{name}.log")

    async def poll(self, have: Mapping[str, int]) -> Report:
        """What is new, given what the launcher has."""
        codes = {}
        for name, child in [*self._alive.items()]:
            if child.returncode is not None:
                codes[name] = await self._children.wait(child)
        # In this order: what is here by then is at least what those wrote, and what the checkpoint counts.
        newest = self._newest()
        found = await asyncio.to_thread(pieces, self._run, have)
        lanes = await asyncio.to_thread(appended, self._run / SPOOL)
        return Report(found, beats(self._run), codes, lanes, newest)

    async def forget(self, name: str) -> None:
        """The launcher knows that it has ended."""
        self._alive.pop(name, None)

    def _newest(self) -> str:
        newest = latest_checkpoint(self._run)
        try:
            return signature(newest) if newest else ""
        except FileNotFoundError:  # the trainer writes it again, or deletes it
            return ""

    async def checkpoint_files(self, name: str) -> dict[str, int]:
        """The files of a checkpoint, with their sizes."""
        return await asyncio.to_thread(checkpoint_files, checkpoints_dir(self._run) / name)

    async def read(self, name: str, at: int, size: int) -> bytes:
        """A piece of a file of the run directory."""
        return await asyncio.to_thread(_read, self._run / name, at, size)

    async def copied(self, signed: str) -> None:
        """The launcher has that checkpoint: the trainer may count what it holds as saved."""
        await asyncio.to_thread(write_whole, self._run / COPIED_FILE, signed.encode())

    async def kill(self, name: str) -> None:
        """SIGKILL to a process and all it started."""
        if name in self._alive:
            self._children.kill_one(self._alive[name])

    async def stop(self) -> list[ProcessRow]:
        """Ends all processes in order; they are reported as any that end. A row for each that had to be killed."""
        await self._children.stop()
        return self._late

    async def spool(self) -> dict[str, bytes]:
        """What the generator here had finished: it goes back to the launcher when its place is given up."""
        return {path.name: path.read_bytes() for path in sorted((self._run / SPOOL).iterdir())}

    async def close(self) -> None:
        """Ends everything, and removes the directory."""
        await self._stack.aclose()


def _link_from_another(directory: Path) -> bool:
    """Whether another host of this user on this node had the same model."""
    for other in directory.parent.parent.glob(f"tsd-*/{directory.name}"):
        partial = directory.with_suffix(".links")
        try:
            if other.stat().st_uid != os.getuid():
                continue
            partial.mkdir()
            for path in other.iterdir():
                os.link(path, partial / path.name)
            partial.rename(directory)
            return True
        except OSError:  # it is just going, or on another file system
            shutil.rmtree(partial, ignore_errors=True)
    return False


async def _unpack(directory: Path, parcel: Parcel) -> None:
    for name, parts in parcel:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for part in parts:
                data = await part
                await asyncio.to_thread(file.write, data)


def _read(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(size)
