"""Mathematical problems, such as those of GSM8K and MATH, graded by the library math-verify. Its extra is `math`.

Answers are numbers, expressions, sets or intervals, plain or in LaTeX. They are read and compared in a process of their
own: see `tsd.tasks.worker`. Knows nothing about models.
"""

from importlib.util import find_spec

from tsd.config import TaskConfig
from tsd.tasks.answers import RESULT_MARK, answer_of, boxed
from tsd.tasks.questions import EXACT, ILLEGAL, WRONG, Questions
from tsd.tasks.worker import Worker
from tsd.types import Grade, Problem

LONGEST_ANSWER = 300
"""Characters; what is longer is no answer."""


class Math(Questions):
    """The `Task`."""

    name = "math"

    def __init__(self, config: TaskConfig) -> None:
        """Raises ValueError where math-verify is not there, or the problems are not."""
        if find_spec("math_verify") is None:
            raise ValueError("task.name = 'math' needs: pip install 'tsd[math]'")
        super().__init__(config)
        self._worker = Worker("math-verify")

    def result(self, answer: str) -> str:
        result = (boxed(answer) or answer.rpartition(RESULT_MARK)[2]).strip()
        if not 0 < len(result) <= LONGEST_ANSWER:
            raise ValueError(f"expected an answer alone, in \\boxed{{}} or after {RESULT_MARK}, found {answer[:80]!r}")
        return result

    def grade(self, problem: Problem, response: str) -> Grade:
        """By what stands in the answer tags, else by what is boxed; ILLEGAL where it cannot be read in time."""
        answered = answer_of(response)
        answer = (boxed(response if answered is None else answered) or answered or "").strip()
        if not 0 < len(answer) <= LONGEST_ANSWER:
            return ILLEGAL
        expected = self.expected(problem)
        score = 1.0 if answer == expected else self._worker.score(expected, answer)
        return {1.0: EXACT, 0.0: WRONG}.get(score, ILLEGAL)
