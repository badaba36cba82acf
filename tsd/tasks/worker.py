"""A library that scores answers, in a process of its own (`tsd.tasks.scorers`), as its owner sees it.

Scorers take a model's text for a program here and there, and some of what a model writes never ends. Knows nothing
about tasks.

    score -> {"score": key, "answer": text} -> worker -> scorer, with limits -> a number, or nothing
"""

import json
import math
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from tsd.tasks import scorers

START_S = 60.0
"""For the library to be imported, on a busy machine."""
GRADE_S = 2.0
"""Longest that a grade may take, whatever becomes of the worker, which itself gives a scorer SCORE_S."""


class Worker:
    """The process that has the library. It ends when its owner lets go of it, or ends itself."""

    _end: Callable[[], object] | None = None

    def __init__(self, library: str, *arguments: str) -> None:
        """Raises ValueError with what the library says where it does not begin."""
        self._argv = [sys.executable, "-P", "-B", scorers.__file__, library, *arguments]
        self._start()
        if (said := self._read(START_S)) is None:
            raise ValueError(f"{library} ended at its start, or took longer than {START_S:g} s")
        if "error" in said:
            raise ValueError(said["error"])
        self._is_ready = True

    def ask(self, request: Mapping[str, object], seconds: float) -> dict[str, Any] | None:
        """The answer to one request; None where there is none in time, and the worker then is a new one."""
        deadline = time.monotonic() + seconds
        if not self._is_ready:
            self._is_ready = self._read(seconds) is not None
            if not self._is_ready:
                if self._process.poll() is not None or time.monotonic() > self._started + START_S:
                    self._start()
                return None
        try:
            os.write(self._requests, json.dumps(request).encode() + b"\n")
            said = self._read(deadline - time.monotonic())
        except BrokenPipeError:
            said = None
        if said is None:
            self._start()
        return said

    def score(self, key: object, answer: str) -> float:
        """What the library's scorer says; NaN where it says nothing in time. Called from one thread at a time."""
        said = self.ask({"score": key, "answer": answer}, GRADE_S)
        return math.nan if said is None else float(said.get("score", math.nan))

    def _start(self) -> None:
        """A new process in place of the last one; the library is not there yet."""
        if self._end is not None:
            self._end()
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._end = weakref.finalize(self, _end, self._process)
        self._started, self._rest, self._is_ready = time.monotonic(), b"", False

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """One line; None where it does not come in time, or the process is gone."""
        deadline, poll = time.monotonic() + seconds, select.poll()
        poll.register(self._replies, select.POLLIN)
        while b"\n" not in self._rest:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            if not (found := os.read(self._replies, 2**16)):
                return None
            self._rest += found
        line, _, self._rest = self._rest.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with process:  # closes its pipes and waits
        pass
