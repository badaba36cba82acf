"""A task of somebody else's, with everything it returns looked at once, where it comes in.

What it raises or returns wrongly is a TaskError that names the task's own file and line, and the problem. Knows nothing
about built-in tasks, which are not looked at.
"""

import math
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

from tsd.errors import TaskError
from tsd.types import Grade, Problem, PromptStyle, Split, Task

T = TypeVar("T")


class Checked:
    """A `Task` around another."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.name = str(task.name)

    def parse(self, line: str) -> Problem:
        """Lets through the ValueError that says what is wrong with a line."""
        try:
            problem = self._task.parse(line)
        except ValueError:
            raise
        except Exception as error:
            raise self._fault("parse", line, error) from error
        return self._expected(Problem, problem, "parse", line)

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        """Lets through the ValueError that says that there are too few."""
        try:
            for problem in self._task.problems(split, count, seed):
                yield self._expected(Problem, problem, "problems", split)
        except (ValueError, TaskError):
            raise
        except Exception as error:
            raise self._fault("problems", split, error) from error

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        found = self._called("prompt", problem, lambda: self._task.prompt(problem, style))
        return self._expected(str, found, "prompt", problem.text)

    def grade(self, problem: Problem, response: str) -> Grade:
        found = self._called("grade", problem, lambda: self._task.grade(problem, response))
        grade = self._expected(Grade, found, "grade", problem.text)
        try:
            reward = float(grade.reward)
        except (TypeError, ValueError):
            reward = math.nan
        if not -1 <= reward <= 1:
            raise self._wrong("grade", problem.text, f"expected a reward from -1 to 1, found {grade.reward!r}")
        return Grade(reward, bool(grade.exact), bool(grade.well_formed), grade.parts)

    def _called(self, part: str, problem: Problem, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:
            raise self._fault(part, problem.text, error) from error

    def _expected(self, kind: type[T], found: object, part: str, about: str) -> T:
        if not isinstance(found, kind):
            raise self._wrong(part, about, f"expected a {kind.__name__}, found {found!r:.100}")
        return found

    def _fault(self, part: str, about: str, error: Exception) -> TaskError:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return self._wrong(part, about, f"{error!r} at {frame.filename}:{frame.lineno}")

    def _wrong(self, part: str, about: str, what: str) -> TaskError:
        return TaskError(f"task {self.name}: {part}: {what}; the problem: {about[:200]}")
