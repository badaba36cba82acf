"""Ends every process of a run once its launcher is gone, however it went.

The launcher holds the only write end of a pipe and writes each child's process group to it, one a line; when the pipe
ends, the guardian ends what is left. Knows nothing about what the processes do. Standard library and Linux's `/proc`
only, and run as a plain file (`python -I -S guardian.py MARK SCRATCH`), so that it starts in milliseconds. A third word
has it leave its parent first: what ends a launcher may end the launcher's children too.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

MARK_VARIABLE = "TSD_RUN_MARK"
"""Every child has it in its environment: finds one that was started but not yet written to the pipe."""
GRACE_S = 8.0
KILL_S = 5.0
"""How long a killed process may take to disappear; only one stuck in the kernel takes that long."""
POLL_S = 0.05


def processes_of(groups: Collection[int], mark: str | None) -> set[int]:
    """Living processes of the groups or of the sessions they lead, or with the mark, and all their descendants."""
    parents, members = {}, set()
    for entry in os.listdir("/proc"):
        # A process may end at any moment; then it is no concern of ours.
        with suppress(OSError):
            if entry.isdigit() and (stat := _stat(int(entry))) is not None:
                parents[int(entry)], group, session = stat
                if group in groups or session in groups or (mark is not None and _has_mark(entry, mark)):
                    members.add(int(entry))
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def ending(groups: Collection[int], mark: str | None, grace_s: float) -> Iterator[None]:
    """SIGTERM, at most `grace_s` of waiting, SIGKILL. Yields whenever its caller should wait POLL_S."""
    for number, seconds in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_S)):
        deadline, signalled = time.monotonic() + seconds, set[int]()
        while (alive := processes_of(groups, mark)) and time.monotonic() < deadline:
            # Each once: a second SIGTERM would cut short what the first one asked for.
            send(number, alive - signalled)
            signalled |= alive
            yield


def send(number: signal.Signals, pids: Collection[int]) -> None:
    """Signals processes, those of them that still are."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return _stat(pid) is not None
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """The process that another one comes from; 0 where it has ended."""
    try:
        found = _stat(pid)
    except OSError:
        return 0
    return found[0] if found else 0


def _stat(pid: int) -> tuple[int, int, int] | None:
    """Parent, process group and session; None for a process that has ended and waits for its parent to notice."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name, in parentheses, may hold anything: fields are counted from its end.
        state, parent, group, session = file.read().rpartition(b")")[2].split()[:4]
    return None if state in b"ZX" else (int(parent), int(group), int(session))


def _has_mark(pid: str, mark: str) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return f"{MARK_VARIABLE}={mark}".encode() in file.read().split(b"\0")


def main(mark: str, scratch: str) -> None:
    """Waits for the launcher's end, ends what it left, and removes its scratch directory."""
    # What ends the launcher may be sent to us as well; our end is the pipe's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = set[int]()
    for line in sys.stdin:
        # `-N` takes group N back: it is empty, and its number may come to be a stranger's.
        group = int(line)
        (groups.add if group > 0 else groups.discard)(abs(group))
    for _ in ending(groups, mark, GRACE_S):
        time.sleep(POLL_S)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) > 3 and os.fork():
        os._exit(0)
    main(*sys.argv[1:3])
