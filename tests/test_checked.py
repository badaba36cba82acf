"""A task of one's own that fails or returns what it must not: said at once, with its file, its line and the problem."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command import tsd
from tests.support.launching import launched
from tests.support.runs import BRIEF, MOCK, TSD
from tsd.config import load_config
from tsd.doctor.trial import examine_task
from tsd.errors import TaskError
from tsd.tasks.checked import Checked
from tsd.tasks.countdown import Countdown
from tsd.tasks.splits import check_splits
from tsd.types import Grade, Problem, Split

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


def checked(task: Any, limit_s: float = 60) -> Checked:
    return Checked(task, limit_s)


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
        checked(Odd(answer)).grade(PROBLEM, "<answer>2*3</answer>")


def test_numbers_and_flags_of_any_kind_become_plain_ones() -> None:
    grade = checked(Odd(Grade(np.float32(0.5), 1, np.bool_(True)))).grade(PROBLEM, "")  # type: ignore[arg-type]
    assert (type(grade.reward), grade.exact, grade.well_formed) == (float, True, True)
    assert grade == Grade(0.5, True, True)


def test_prompts_and_problems_are_looked_at_too() -> None:
    with pytest.raises(TaskError, match="prompt: expected a str, found 7"):
        checked(Odd(7)).prompt(PROBLEM, "compact")
    with pytest.raises(TaskError, match="problems: expected a Problem, found 'x'"):
        list(checked(Odd(["x"])).problems("train", 1, 0))
    with pytest.raises(ValueError, match=r"^expected"):
        checked(Countdown()).parse("nonsense")


def test_a_fault_is_one_line_whatever_the_task_says() -> None:
    with pytest.raises(TaskError, match=r"^task odd: grade: .*; the problem: two lines$"):
        checked(Odd(None)).grade(Problem("p", "two\nlines"), "")


def test_a_problem_is_looked_at_and_parts_of_a_reward_become_plain_numbers() -> None:
    with pytest.raises(TaskError, match="problems: a problem's id: expected a str, found 7"):
        list(checked(Odd([Problem(7, "x")])).problems("train", 1, 0))  # type: ignore[arg-type]
    graded = checked(Odd(Grade(0.5, True, True, {"short": np.float32(0.25)}))).grade(PROBLEM, "")  # type: ignore[dict-item]
    assert type(graded.parts["short"]) is float
    with pytest.raises(TaskError, match="expected a reward from -1 to 1, found nan"):
        checked(Odd(Grade(0.5, True, True, {"short": float("nan")}))).grade(PROBLEM, "")


class Hanging:
    """Swallows what it can, as careless tasks do."""

    name = "hanging"

    def grade(self, problem: Problem, response: str) -> Grade:
        while True:
            with contextlib.suppress(Exception):
                threading.Event().wait(99)

    def prompt(self, problem: Problem, style: str) -> str:
        return str(re.match(r"(a+)+$", "a" * 60 + "b"))

    parse = problems = grade


@pytest.mark.parametrize("part", ["grade", "prompt"])
def test_what_hangs_is_interrupted_where_it_hangs(part: str) -> None:
    with pytest.raises(TaskError) as caught:
        getattr(checked(Hanging(), 0.05), part)(PROBLEM, "compact")
    assert str(caught.value).startswith(
        f"task hanging: {part}: not done after 0.05 s (task.grade_timeout_s) at {__file__}:"
    )
    assert str(caught.value).endswith(f"the problem: {PROBLEM.text}")


def test_a_limit_leaves_no_alarm_behind_and_is_none_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    checked(Countdown()).grade(Countdown().parse("2 3 = 6"), "<answer>2*3</answer>")
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0) == before
    with ThreadPoolExecutor() as pool:
        assert pool.submit(checked(Odd(Grade(1.0, True, True))).grade, PROBLEM, "").result().exact


def test_training_problems_among_the_held_out_ones_are_refused_in_one_line() -> None:
    class Same(Countdown):
        def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
            return super().problems("train", 5, 0)

    config = load_config(None, ["task.num_train=20", "evaluate.num_problems=3", "seed=1"])
    check_splits(Countdown(), ["heldout"], config)
    with pytest.raises(
        ValueError, match=r"^task countdown: 3 of 3 heldout problems are training problems too, such as"
    ):
        check_splits(Same(), ["heldout"], config)


MINE = """
from tsd.tasks.countdown import Countdown
class Mine(Countdown):
    name = "mine"
    def grade(self, problem, response):
        {body}
class Same(Mine):
    def problems(self, split, count, seed):
        return super().problems("train", count, 0)
"""


def mine(tmp_path: Path, body: str) -> str:
    """A task that is Countdown, made of its configuration, but for its grade on line 6."""
    (tmp_path / "mine.py").write_text(MINE.format(body=body))
    return f"task.name={tmp_path / 'mine.py'}:Mine"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("return 1 / 0", "ZeroDivisionError('division by zero')"),
        ("import time; time.sleep(99)", "not done after 0.5 s (task.grade_timeout_s)"),
    ],
)
def test_a_run_whose_task_fails_ends_at_once_with_the_tasks_own_file_and_line(
    tmp_path: Path, body: str, fault: str
) -> None:
    options = (*BRIEF, "--set", mine(tmp_path, body), "--run-dir", str(tmp_path / "run"))
    with launched([*TSD, *MOCK, *options, "--set", "task.grade_timeout_s=0.5"]) as run:
        output, _ = run.process.communicate(timeout=100)
        assert run.process.returncode == 2
        assert run.alive() == []
    last = output.splitlines()[-1]
    assert f"error: task mine: grade: {fault} at {tmp_path / 'mine.py'}:6" in last
    assert f"start it again with: tsd launch --resume {tmp_path / 'run'}" in last


@pytest.mark.timeout(120)
def test_a_task_that_fails_in_training_alone_ends_the_run_without_a_restart(tmp_path: Path) -> None:
    body = "assert '/generator/' not in __import__('sys').argv[0]; return super().grade(problem, response)"
    options = (*BRIEF, "--set", mine(tmp_path, body), "--run-dir", str(tmp_path / "run"))
    with launched([*TSD, *MOCK, *options]) as run:
        output, _ = run.process.communicate(timeout=100)
        assert run.process.returncode == 2
    assert f"error: task mine: grade: AssertionError() at {tmp_path / 'mine.py'}:6" in output.splitlines()[-1]
    assert "starting it again" not in output


def test_a_launch_refuses_a_task_whose_splits_share_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = mine(tmp_path, "return super().grade(problem, response)").replace(":Mine", ":Same")
    assert tsd("launch", "--run-dir", str(tmp_path / "run"), "--set", name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: task mine: 820 of 820 heldout problems are training problems too")
    assert not (tmp_path / "run").exists()


def test_c_code_that_hangs_is_found_in_the_processs_log() -> None:
    code = "from tsd.tasks.limit import limited\nwith limited(0.1): sum(range(10**12))"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(3)]
        process.kill()
    assert said[0].startswith("Timeout")
    assert 'File "<string>", line 2' in said[2]


def findings(tmp_path: Path, body: str, *settings: str) -> dict[str, tuple[str, str]]:
    """The last finding of each kind."""
    config = load_config(None, (mine(tmp_path, body), "task.grade_timeout_s=0.05", *settings))
    return {one.about: (one.level, one.text) for one in examine_task(config)}


def test_a_task_that_is_in_order_has_nothing_to_be_told(tmp_path: Path) -> None:
    found = findings(tmp_path, "return super().grade(problem, response)")
    assert {about: level for about, (level, _) in found.items()} == {
        "problems": "fine",
        "prompts": "fine",
        "grading": "fine",
    }
    assert "median" in found["grading"][1]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return super().grade(problem, response) if response else None", "an empty response: .* expected a Grade"),
        ("response.encode('ascii'); return super().grade(problem, response)", "letters that are not ASCII: .*Unicode"),
        ("return __import__('tsd.types').types.Grade(2.0, False, True)", "expected a reward from -1 to 1, found 2.0"),
        ("return __import__('tsd.types').types.Grade(1.0, True, True)", "counts as a solution"),
        (
            "while len(response) > 999: pass\n        return super().grade(problem, response)",
            "very long .* not done after",
        ),
    ],
)
def test_what_a_task_does_wrong_with_an_odd_response_is_found(tmp_path: Path, body: str, text: str) -> None:
    config = load_config(None, (mine(tmp_path, body), "task.grade_timeout_s=0.2"))
    (first, *_) = (one for one in examine_task(config) if one.level == "error")
    assert (first.about, bool(re.search(text, first.text))) == ("grading", True), first


def test_slow_grades_are_a_warning(tmp_path: Path) -> None:
    body = "import time; time.sleep(0.011); return super().grade(problem, response)"
    assert findings(tmp_path, body)["grading"][0] == "warning"


def test_the_doctor_tries_a_task_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = mine(tmp_path, "return super().grade(problem, response)").removeprefix("task.name=")
    assert tsd("doctor", "--task", name, "--json") == 0
    assert tsd("doctor", "--task", name.replace(":Mine", ":Same")) == 1
    assert "training problems too" in " ".join(capsys.readouterr().out.split())


def test_a_prompt_that_differs_between_calls_is_found(tmp_path: Path) -> None:
    body = "pass\n    def prompt(self, problem, style): return str(__import__('random').random())"
    level, text = findings(tmp_path, body)["prompts"]
    assert (level, "two calls for one problem give" in text) == ("error", True)
