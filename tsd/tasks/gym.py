"""The data sets of the library reasoning-gym, each as a task. Its extra is `reasoning-gym`.

Problems are made, and answers scored, in a process of their own: see `tsd.tasks.worker`. Knows nothing about models.
"""

import json
import math
import random
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count as counted
from typing import Annotated

import msgspec
from msgspec import Meta

from tsd.config import TaskConfig
from tsd.tasks.answers import answer_of, ask
from tsd.tasks.scorers import BLOCK
from tsd.tasks.splits import in_split
from tsd.tasks.worker import Worker
from tsd.types import Grade, Problem, PromptStyle, Split

MAKE_S = 60.0
"""For one batch of problems."""
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
        try:
            self.dataset, self._worker = dataset, Worker(self.name, dataset, json.dumps(config.options))
        except ValueError as error:
            raise ValueError(f"task.dataset: reasoning-gym cannot make {dataset!r}: {error}") from None

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
        start = random.Random(f"{split} {seed}").randrange(MAX_STARTS) * BLOCK
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
        """What the data set's own scorer says, from 0 to 1; -1 where it is not in time, or nothing is answered."""
        answer = (answer_of(response) or "").strip()
        if not answer or len(answer) > LONGEST_ANSWER:
            return ILLEGAL
        score = self._worker.score(_decoder.decode(problem.text).number, answer)
        if not math.isfinite(score):
            return ILLEGAL
        return Grade(reward=max(0.0, min(1.0, score)), exact=score >= 1.0, well_formed=True)
