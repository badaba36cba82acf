"""What tests of whole runs share: a launcher in a process of its own, and scripts in place of a run's processes."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

PATIENCE_S = 15.0
GONE_AFTER_S = 20.0

FAKE = Path(__file__).parent / "fake_process.py"
"""In place of a run's processes."""


class Launched:
    """A launcher and everything it started, found by a variable they all inherit."""

    def __init__(self, command: Sequence[str]) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "TSD_TEST_MARK": self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def alive(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            marked = process.environ().get("TSD_TEST_MARK") == self._mark
            return bool(marked and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


@contextmanager
def launched(command: Sequence[str]) -> Iterator[Launched]:
    """Whatever happens in the test, nothing of the launcher is left after it."""
    launched = Launched(command)
    try:
        yield launched
    finally:
        deadline = time.monotonic() + PATIENCE_S
        while (left := launched.alive()) and time.monotonic() < deadline:  # one may have been starting another
            for process in left:
                process.kill()
        if launched.process.stdout is not None and not launched.process.stdout.closed:
            launched.process.communicate(timeout=PATIENCE_S)
        launched.process.wait(PATIENCE_S)


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
