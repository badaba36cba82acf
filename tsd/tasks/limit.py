"""A limit on how long somebody else's code may run in our event loop, at the cost of a few system calls.

It ends Python code, and C code that looks for signals. Other C code hangs on: the process writes where it hangs to its
standard error, which in a run is its log, and the launcher kills it as frozen.
"""

import faulthandler
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Overdue(BaseException):
    """Raised in code that takes too long; no `except Exception` of its own catches it."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s

    def __repr__(self) -> str:
        return f"not done after {self.limit_s:g} s (task.grade_timeout_s)"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises Overdue out of whatever runs that long; in the main thread, where signals come in, as all of a run is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise Overdue(seconds)

    before, left = signal.signal(signal.SIGALRM, expire), signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(2 * seconds, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
