"""How a process of a run lives: it beats while its loop turns, SIGTERM cancels it, a fault is one line."""

import asyncio
import errno
import gc
import secrets
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

import uvloop

from tsd.errors import TaskError, TsdError, leaves

FAULT = 2
"""Exit code of one that can name its fault: starting a trainer again would not help."""
HOPELESS = 3
"""Exit code of one whose fault would come again in any process of the run."""
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
BEAT_S = 1.0
BEATS = "alive"
"""A folder of a run directory, with a file for each process."""


def run_child(work: Coroutine[None, None, None]) -> int:
    """Runs a child's whole life. Its exit code: 0 when done or told to stop, FAULT or HOPELESS where it can name its
    fault."""
    rare_gc()
    try:
        uvloop.run(_cancelled_by_sigterm(work))
    except asyncio.CancelledError:
        return 0
    except BaseException as error:
        errors = leaves(error)
        if not all(map(_is_named, errors)):
            raise
        _complain(errors[0])
        return HOPELESS if isinstance(errors[0], TaskError) else FAULT
    return 0


def rare_gc() -> None:
    """For a process that grows trees.

    A tree is many living objects, which Python's collector visits again and again: with its usual thresholds that costs
    a third of a simulation. Trees make no cycles of references, so those let go of need no collector.
    """
    gc.set_threshold(500_000, 20, 20)


def new_life() -> str:
    """Tells a process from all that had its place before: they go by when they began, as far as clocks can be trusted,
    and no two are the same."""
    return f"{time.time_ns():x}{secrets.token_hex(4)}"


async def beat(run_dir: Path, name: str) -> None:
    """Touches a file as long as the event loop turns: whoever looks knows that this process is not frozen."""
    path = run_dir / BEATS / name
    path.parent.mkdir(exist_ok=True)
    while True:
        await asyncio.to_thread(path.touch)
        await asyncio.sleep(BEAT_S)


async def _cancelled_by_sigterm(work: Coroutine[None, None, None]) -> None:
    running = asyncio.current_task()
    assert running is not None, "called in a running loop"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await work


def _is_named(error: BaseException) -> bool:
    """Whether it says all there is to say. Of the system's own errors those of a disk that takes no more do."""
    return isinstance(error, TsdError | ValueError) or (isinstance(error, OSError) and error.errno in DISK_IS_FULL)


def _complain(error: BaseException) -> None:
    with suppress(OSError):  # the log may be on the disk that is full
        print(f"error: {error}", file=sys.stderr)
