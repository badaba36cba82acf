"""A task of somebody else's, with everything it returns looked at once, where it comes in.

What it raises or returns wrongly, and a prompt or grade that takes too long, is a TaskError that names the task's own
file and line, and the problem. Knows nothing about built-in tasks, which are not looked at.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tsd.errors import TaskError
from tsd.tasks.limit import Overdue, limited
from tsd.tasks.outside import place
from tsd.types import Grade, Problem, PromptStyle, Split, Task

T = TypeVar("T")
LONGEST_FAULT = 1000
"""Characters of the one line; what is longer is cut."""


class Checked:
    """A `Task` around another, none of whose prompts and grades may take longer than `limit_s`."""

    def __init__(self, task: Task, limit_s: float) -> None:
        self._task, self._limit_s = task, limit_s
        self._file = getattr(sys.modules.get(type(task).__module__), "__file__", None)
        self.name = str(task.name)

    def parse(self, line: str) -> Problem:
        """Lets through the ValueError that says what is wrong with a line."""
        try:
            problem = self._task.parse(line)
        except ValueError:
            raise
        except Exception as error:
            raise self._fault("parse", line, error) from error
        return self._problem(problem, "parse", line)

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        try:
            for problem in self._task.problems(split, count, seed):
                yield self._problem(problem, "problems", split)
        except TaskError:
            raise
        except Exception as error:
            raise self._fault("problems", split, error) from error

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        found = self._called("prompt", problem, lambda: self._task.prompt(problem, style))
        return self._expected(str, found, "prompt", problem.text)

    def grade(self, problem: Problem, response: str) -> Grade:
        found = self._called("grade", problem, lambda: self._task.grade(problem, response))
        grade = self._expected(Grade, found, "grade", problem.text)
        reward, *parts = (self._worth(one, problem.text) for one in (grade.reward, *grade.parts.values()))
        return Grade(reward, bool(grade.exact), bool(grade.well_formed), dict(zip(grade.parts, parts, strict=True)))

    def _called(self, part: str, problem: Problem, call: Callable[[], object]) -> object:
        try:
            with limited(self._limit_s):
                return call()
        except (Exception, Overdue) as error:
            raise self._fault(part, problem.text, error) from error

    def _worth(self, found: Any, about: str) -> float:
        """A plain number of whatever kind of number it is."""
        try:
            worth = float(found)
        except (TypeError, ValueError):
            worth = math.nan
        if not -1 <= worth <= 1:
            raise self._wrong("grade", about, f"expected a reward from -1 to 1, found {found!r}")
        return worth

    def _problem(self, found: object, part: str, about: str) -> Problem:
        problem = self._expected(Problem, found, part, about)
        self._expected(str, problem.id, f"{part}: a problem's id", about)
        self._expected(str, problem.text, f"{part}: a problem's text", about)
        return problem

    def _expected(self, kind: type[T], found: object, part: str, about: str) -> T:
        if not isinstance(found, kind):
            raise self._wrong(part, about, f"expected a {kind.__name__}, found {found!r:.100}")
        return found

    def _fault(self, part: str, about: str, error: BaseException) -> TaskError:
        return self._wrong(part, about, f"{error!r}{place(error, self._file)}")

    def _wrong(self, part: str, about: str, what: str) -> TaskError:
        """One line, whatever the task's own words are."""
        line = f"task {self.name}: {part}: {what}; the problem: {about}"
        return TaskError(" ".join(line.split())[:LONGEST_FAULT])
