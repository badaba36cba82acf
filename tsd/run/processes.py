"""The processes of a run: started in sessions of their own, watched, and ended, all of them, whatever happens.

Knows nothing about generators, trainers or devices. What a killed launcher leaves behind, `tsd.run.guardian` ends.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from tsd.config import TransportConfig
from tsd.errors import ProcessError
from tsd.observe.metrics import ProcessRow
from tsd.run import guardian
from tsd.run.backend import Started
from tsd.transport.addresses import choose_base

LEFTOVER_GRACE_S = 2.0
"""How long what a child leaves behind has to clean up: an engine's own process, shared memory's tracker."""
GUARDIAN_WAIT_S = guardian.GRACE_S + guardian.KILL_S + 5.0
LOG_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Child:
    """A process of the run; the leader of its own session and process group."""

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    @property
    def is_lost(self) -> bool:
        """Never: it is on this machine."""
        return False

    def failure(self) -> ProcessError:
        """What went wrong, once it has ended, in one line."""
        assert self.process.returncode is not None
        return ProcessError(describe_end(self.name, self.process.returncode, self.log_path))


class Children:
    """Every child of a run. Leaving the context ends them: SIGTERM, a deadline, then SIGKILL."""

    scratch: Path
    """A private directory with a short path, for sockets; it goes when the last process has gone."""
    gives_up_faults = False

    def __init__(
        self,
        grace_s: float,
        guarded: Sequence[int] = (),
        report: Callable[[ProcessRow], None] = print,
        place: str = "/tmp",
        *,
        is_hosted: bool = False,
    ) -> None:
        """`guarded` are open files, such as a lock, which the guardian holds too until every process is gone; the
        scratch directory goes to `place`. Hosted by another program, which may end all children that it knows of, the
        guardian is none of these."""
        self._is_hosted = is_hosted
        self._grace_s, self._guarded, self._report, self._place = grace_s, guarded, report, place
        self.mark = uuid.uuid4().hex
        self._children: dict[int, Child] = {}

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    def begin(self) -> None:
        """Makes the scratch directory, and starts the guardian."""
        # Not under TMPDIR: a socket's path may have 107 bytes in all.
        self.scratch = Path(tempfile.mkdtemp(prefix="tsd-", dir=self._place))
        read_end, self._pipe = os.pipe()
        try:
            self._guardian = self._start_guardian(read_end)
        finally:
            os.close(read_end)

    def release(self) -> None:
        """The guardian ends what is left, and the scratch directory goes."""
        os.close(self._pipe)
        self._wait_for_guardian()

    def sockets(self, config: TransportConfig) -> str:
        """In the scratch directory, or at ports of this machine."""
        return choose_base(config, self.scratch)

    def environ(self, own: Mapping[str, str]) -> Mapping[str, str]:
        """The launcher's own; what a killed process leaves in its TMPDIR goes with the run."""
        return {**own, "TMPDIR": str(self.scratch)}

    async def meeting_point(self) -> Mapping[str, str]:
        """A port of this machine that was free a moment ago."""
        return meeting_point("127.0.0.1")

    async def spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> Child:
        """Starts a child; what it prints is appended to its log. Raises ProcessError when it cannot be started."""
        try:
            with _append_to(log_path) as log:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**env, guardian.MARK_VARIABLE: self.mark},
                    start_new_session=True,
                )
            child = self._children[process.pid] = Child(name, process, log_path)
            self._tell_guardian(process.pid)
        except BrokenPipeError:
            raise ProcessError("the run's guardian has died, and a killed launcher would leave processes") from None
        except OSError as error:
            raise ProcessError(f"{name} cannot be started: {error}") from error
        return child

    async def wait(self, child: Started) -> int:
        """Waits for a child to end by itself, however long it runs; ends what it left behind. Its exit code."""
        assert isinstance(child, Child)
        code = await child.process.wait()
        await self._end({child.pid}, LEFTOVER_GRACE_S)
        return code

    async def stop(self, names: Collection[str] | None = None) -> None:
        """SIGTERM to every child, or to those of these names; a deadline for them together, SIGKILL to those that are
        late, and a report of it."""
        stopping = [child for child in self._children.values() if names is None or child.name in names]
        # The leaders alone at first: an engine's own process ended under a generator would look like a fault to it.
        guardian.send(signal.SIGTERM, [child.pid for child in stopping if child.process.returncode is None])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                for child in stopping:
                    await child.process.wait()
        late = [child for child in stopping if child.process.returncode is None]
        guardian.send(signal.SIGKILL, [child.pid for child in late])
        for child in late:
            cause = f"{child.name} did not end within {self._grace_s:g} s of SIGTERM and was killed"
            self._report(ProcessRow(process=child.name, what="late", cause=cause))
        await self._end({child.pid for child in stopping}, LEFTOVER_GRACE_S)

    def kill_one(self, child: Started) -> None:
        """SIGKILL to a child and all it started; `wait` then returns."""
        assert isinstance(child, Child)
        if child.process.returncode is None:
            guardian.send(signal.SIGKILL, guardian.processes_of({child.pid}, None))

    def kill(self) -> None:
        """SIGKILL to every process of the run, now."""
        guardian.send(signal.SIGKILL, guardian.processes_of(self._children.keys(), self.mark))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            # The pipe's end tells the guardian to end what is left, be it that `stop` was itself interrupted.
            await asyncio.to_thread(self.release)

    def _start_guardian(self, pipe: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, self.mark, str(self.scratch), *["leave"] * self._is_hosted],
            stdin=pipe,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._guarded,
        )

    def _wait_for_guardian(self) -> None:
        try:
            self._guardian.wait(GUARDIAN_WAIT_S)
            deadline = time.monotonic() + GUARDIAN_WAIT_S
            while self._is_hosted and self.scratch.exists():  # the last that it does
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired("guardian", GUARDIAN_WAIT_S)
                time.sleep(guardian.POLL_S)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"processes of the run do not end: {GUARDIAN_WAIT_S:.0f} s after SIGTERM") from None

    async def _end(self, groups: set[int], grace_s: float) -> None:
        """Ends every process of some groups, and forgets the groups."""
        for _ in guardian.ending(groups, None, grace_s):
            await asyncio.sleep(guardian.POLL_S)
        for pid in groups & self._children.keys():
            del self._children[pid]
            # A guardian that has died is reported where it matters, when the next child starts.
            with suppress(BrokenPipeError):
                self._tell_guardian(-pid)

    def _tell_guardian(self, line: int) -> None:
        os.write(self._pipe, b"%d\n" % line)


@contextmanager
def guarded() -> Iterator[tuple[str, Path]]:
    """A mark and a scratch directory: whatever has the mark in its environment ends with this process, however that
    ends, and the directory goes."""
    children = Children(0.0)
    children.begin()
    try:
        yield children.mark, children.scratch
    finally:
        children.release()


def describe_end(name: str, code: int, log_path: Path) -> str:
    """How a process ended, and the last it said, in one line."""
    how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    return f"{name} ended with {how}; its log {log_path} {_last_line(log_path)}"


def meeting_point(host: str) -> dict[str, str]:
    """Where several trainers find each other: a port of that host, free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return {"MASTER_ADDR": host, "MASTER_PORT": str(probe.getsockname()[1])}


def _append_to(path: Path) -> BinaryIO:
    return path.open("ab")


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"ends: {last}" if last else "is empty"
