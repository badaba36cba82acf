"""How a process that the launcher started begins and ends: SIGTERM cancels, a fault is one line on standard error."""

import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine

import uvloop

from tsd.errors import TsdError


def run_child(work: Coroutine[None, None, None]) -> int:
    """Runs a child's whole life; returns its exit code: 0 when done or told to stop, 1 after a fault it can name."""
    rare_gc()
    try:
        uvloop.run(_cancelled_by_sigterm(work))
    except asyncio.CancelledError:
        return 0
    except (TsdError, ValueError) as error:
        return _complain(error)
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        if not all(isinstance(error, TsdError | ValueError) for error in errors):
            raise
        return _complain(errors[0])
    return 0


def rare_gc() -> None:
    """For a process that grows trees.

    A tree is many living objects, which Python's collector visits again and again: with its usual thresholds that costs
    a third of a simulation. Trees make no cycles of references, so those let go of need no collector.
    """
    gc.set_threshold(50_000, 20, 20)


async def _cancelled_by_sigterm(work: Coroutine[None, None, None]) -> None:
    running = asyncio.current_task()
    assert running is not None, "called in a running loop"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await work


def _complain(error: BaseException) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
