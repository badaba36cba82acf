"""A task of one's own that fails or returns what it must not: said at once, with its file, its line and the problem."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.launching import launched
from tests.support.runs import BRIEF, MOCK, TSD
from tsd.errors import TaskError
from tsd.tasks.checked import Checked
from tsd.tasks.countdown import Countdown
from tsd.types import Grade, Problem

PROBLEM = Problem("p", '{"input":[2,3],"target":6}')


class Odd:
    """Returns what it was told to, whatever it is asked, or raises it."""

    name = "odd"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def grade(self, *_: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    parse = prompt = problems = grade


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "expected a Grade, found None"),
        (1.0, "expected a Grade, found 1.0"),
        (Grade(float("nan"), True, True), "expected a reward from -1 to 1, found nan"),
        (Grade(100.0, True, True), "expected a reward from -1 to 1, found 100.0"),
        (Grade("best", True, True), "expected a reward from -1 to 1, found 'best'"),  # type: ignore[arg-type]
        (ZeroDivisionError("by zero"), r"ZeroDivisionError\('by zero'\) at .*test_checked\.py:\d+"),
    ],
)
def test_a_grade_that_is_none_is_named_with_its_problem(answer: object, message: str) -> None:
    with pytest.raises(TaskError, match=rf'^task odd: grade: {message}; the problem: {{"input":\[2,3\],"target":6}}$'):
        Checked(Odd(answer)).grade(PROBLEM, "<answer>2*3</answer>")


def test_numbers_and_flags_of_any_kind_become_plain_ones() -> None:
    grade = Checked(Odd(Grade(np.float32(0.5), 1, np.bool_(True)))).grade(PROBLEM, "")  # type: ignore[arg-type]
    assert (type(grade.reward), grade.exact, grade.well_formed) == (float, True, True)
    assert grade == Grade(0.5, True, True)


def test_prompts_and_problems_are_looked_at_too() -> None:
    with pytest.raises(TaskError, match="prompt: expected a str, found 7"):
        Checked(Odd(7)).prompt(PROBLEM, "compact")
    with pytest.raises(TaskError, match="problems: expected a Problem, found 'x'"):
        list(Checked(Odd(["x"])).problems("train", 1, 0))
    with pytest.raises(ValueError, match=r"^expected"):
        Checked(Countdown()).parse("nonsense")


@pytest.mark.timeout(120)
def test_a_run_whose_task_fails_ends_at_once_with_the_tasks_own_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tsd.tasks.countdown import Countdown\n"
        "class Mine(Countdown):\n"
        "    name = 'mine'\n"
        "    def __init__(self, config): super().__init__(config.num_numbers)\n"
        "    def grade(self, problem, response):\n"
        "        return 1 / 0\n"
    )
    options = (*BRIEF, "--set", f"task.name={tmp_path / 'mine.py'}:Mine", "--run-dir", str(tmp_path / "run"))
    with launched([*TSD, *MOCK, *options]) as run:
        output, _ = run.process.communicate(timeout=100)
        assert run.process.returncode == 1
        assert run.alive() == []
    last = output.splitlines()[-1]
    assert f"error: task mine: grade: ZeroDivisionError('division by zero') at {tmp_path / 'mine.py'}:6" in last
    assert f"start it again with: tsd launch --resume {tmp_path / 'run'}" in last
