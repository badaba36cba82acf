"""The data sets of the library reasoning-gym, each as a task. Its extra is `reasoning-gym`.

Problems are made, and answers scored, in a process of their own (`tsd.tasks.gym_worker`): the library's scorers take a
model's text for Python here and there, and some of what a model writes never ends. Knows nothing about models.

    grade -> {"score": n, "answer": text} -> worker -> scorer, with limits -> a number, or nothing
"""

import json
import math
import os
import random
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import count as counted
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tsd.config import TaskConfig
from tsd.tasks import gym_worker
from tsd.tasks.answers import answer_of, ask
from tsd.tasks.splits import in_split
from tsd.types import Grade, Problem, PromptStyle, Split

START_S = 60.0
"""For the library to be imported, on a busy machine."""
MAKE_S = 60.0
"""For one batch of problems."""
GRADE_S = 2.0
"""Longest that a grade may take, whatever becomes of the worker, which itself gives a scorer SCORE_S."""
BATCH = 50
MAX_STARTS = 10_000
MAX_DRAWS = 3000
"""Problems made without a new one before a split counts as used up."""
LONGEST_ANSWER = 20_000
ILLEGAL = Grade(reward=-1.0, exact=False, well_formed=False)


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a problem file: the data set's problem of that number."""

    dataset: str
    number: Annotated[int, Meta(ge=0, le=2**31)]
    question: str | None = None
    """Says whether the library still makes the same of the number."""


_decoder = msgspec.json.Decoder(Question)


class Worker:
    """The process that has the library. It ends when its owner lets go of it, or ends itself."""

    _end: Callable[[], object] | None = None

    def __init__(self, dataset: str, options: Mapping[str, object]) -> None:
        """Raises ValueError for what the library does not make."""
        self._argv = [sys.executable, "-P", "-B", gym_worker.__file__, dataset, json.dumps(options)]
        self._start()
        if (said := self._read(START_S)) is None:
            raise ValueError(f"task.name: reasoning-gym ended at its start, or took longer than {START_S:g} s")
        if "error" in said:
            raise ValueError(f"task.dataset: reasoning-gym cannot make {dataset!r}: {said['error']}")
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


class Gym:
    """The `Task`. A problem is the data set's of some number; splits are disjoint by a hash of the question."""

    name = "reasoning-gym"

    def __init__(self, config: TaskConfig) -> None:
        """Raises ValueError where the library or the data set is not there."""
        dataset = config.dataset
        if not dataset:
            raise ValueError('task.dataset: name a data set of reasoning-gym, such as "leg_counting"')
        if dataset == "countdown":
            raise ValueError('task.dataset: reasoning-gym runs answers to its countdown; use task.name = "countdown"')
        if find_spec("reasoning_gym") is None:
            raise ValueError("task.name = 'reasoning-gym' needs: pip install 'tsd[reasoning-gym]'")
        self.dataset, self._worker = dataset, Worker(dataset, config.options)

    def parse(self, line: str) -> Problem:
        """Also the bare number of a problem."""
        text = f'{{"dataset":"{self.dataset}","number":{line}}}' if line.strip().isdecimal() else line
        try:
            asked = _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise ValueError(f'expected {{"dataset":"...","number":7}} or 7, found {line[:80]!r}: {error}') from None
        if asked.dataset != self.dataset:
            raise ValueError(f"expected a problem of {self.dataset}, found one of {asked.dataset[:80]!r}")
        ((_, problem),) = self._made(asked.number, 1)
        if asked.question not in (None, _decoder.decode(problem.text).question):
            raise ValueError(f"{self.dataset} {asked.number} is another problem in this version or with these options")
        return problem

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        """Fewer than `count` where no new one comes up any more."""
        start = random.Random(f"{split} {seed}").randrange(MAX_STARTS) * gym_worker.BLOCK
        seen, last = set[str](), start
        for first in counted(start, BATCH):
            for number, (question, problem) in enumerate(self._made(first, BATCH), first):
                if len(seen) == count or number - last > MAX_DRAWS:
                    return
                if question not in seen and in_split(question, split):
                    seen.add(question)
                    last = number
                    yield problem

    def _made(self, first: int, count: int) -> Iterator[tuple[str, Problem]]:
        said = self._worker.ask({"make": first, "count": count}, MAKE_S)
        if said is None or "error" in said:
            raise ValueError(f"reasoning-gym made no {self.dataset} {first}: {(said or {}).get('error', 'too slow')}")
        for number, question in enumerate(said["questions"], first):
            text = msgspec.json.encode(Question(self.dataset, number, question)).decode()
            yield question, Problem(f"{self.dataset}-{number}", text)

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        return ask(_decoder.decode(problem.text).question or "", style)

    def grade(self, problem: Problem, response: str) -> Grade:
        """What the data set's own scorer says, from 0 to 1; -1 where it says nothing in time, or nothing is answered.

        Called from one thread at a time.
        """
        answer = (answer_of(response) or "").strip()
        if not answer or len(answer) > LONGEST_ANSWER:
            return ILLEGAL
        said = self._worker.ask({"score": _decoder.decode(problem.text).number, "answer": answer}, GRADE_S)
        score = math.nan if said is None else said.get("score", math.nan)
        if not math.isfinite(score):
            return ILLEGAL
        return Grade(reward=max(0.0, min(1.0, score)), exact=score >= 1.0, well_formed=True)
