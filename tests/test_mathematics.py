"""The task `math`: answers graded by what they mean, in bounded time, whatever a model writes."""

import json
import time
from pathlib import Path

import pytest

from tests.support.launching import launched
from tests.support.runs import SMALL, TSD, finish, summary
from tsd.config import TaskConfig
from tsd.tasks import make_task
from tsd.tasks.answers import boxed
from tsd.tasks.mathematics import Math
from tsd.tasks.questions import EXACT, ILLEGAL, WRONG
from tsd.types import Grade, Problem

pytest.importorskip("math_verify", reason="needs pip install 'tsd[math]'")
datasets = pytest.importorskip("datasets", reason="needs pip install 'tsd[datasets]'")

FEW_S = 2.0
"""Longest that any answer may take, on a busy machine too; on a quiet one none takes a second."""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Math:
    path = tmp_path_factory.mktemp("math") / "p.jsonl"
    path.write_text('{"question":"3 * 4?","answer":"12"}\n')
    found = make_task(TaskConfig(name="math", path=str(path)))
    assert isinstance(found, Math)
    return found


def asked(task: Math, answer: str) -> Problem:
    return task.parse(json.dumps({"question": "How many?", "answer": answer}))


RIGHT = (
    ("12", "12"),
    ("12", " 12.0 "),
    ("12", "\\boxed{12}"),
    ("12", "x = 12"),
    ("12", "12 apples"),
    ("12", "$12"),
    ("1,000", "1000"),
    ("1000000", "10^6"),
    ("111111", "111,\\! 111"),
    ("\\frac{3}{4}", "0.75"),
    ("\\frac12", "1/2"),
    ("0.12", "12\\%"),
    ("-3", "\u22123"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("x^2-1", "(x-1)(x+1)"),
    ("2,3", "3,2"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("90^\\circ", "90"),
    ("\\text{Friday}", "Friday"),
    ("\\text{(B)}", "B"),
)
NOT_RIGHT = (
    ("12", "13"),
    ("12", "12.001"),
    ("12", "12, 13"),
    ("12", "12 \\text{ or } 13"),
    ("12", "5} or \\boxed{12"),
    ("12", "\\pm 12"),
    ("12", "12=13"),
    ("12", "x > 5"),
    ("12", "(-\\infty, \\infty)"),
    ("12", "twelve"),
    ("12", ""),
    ("12", "\x00"),
    ("12", "1e1000000"),
    ("\\text{Friday}", "Monday"),
    ("\\frac{1}{0}", "2"),
)
HOSTILE = (
    "9**9**9**9",
    "9^{9^{9^9}}",
    "10^{10^{8}}",
    "12!!",
    "1000000007!",
    "\\binom{10^9}{10^8}",
    "\\sum_{n=1}^{10^{12}} \\frac{1}{n}",
    "\\int_0^1 \\frac{\\sin x}{x^x+1} dx",
    "\\int_0^1 x dx " * 1000,
    "\\int x dx " * 25,
    "\\frac{1}{" * 500 + "2" + "}" * 500,
    "\\frac{1}{" * 25 + "2" + "}" * 25,
    "\\sqrt{" * 40 + "2" + "}" * 40,
    "(" * 299,
    "x" * 299,
    "1" * 100_000,
    "\\input{/etc/passwd}",
    "__import__('os')._exit(0)",
    "__import__('os').system('touch MARK')",
    "open('MARK', 'w')",
)


@pytest.mark.parametrize(("expected", "answer"), RIGHT)
def test_an_answer_that_says_the_same_is_right(expected: str, answer: str, task: Math) -> None:
    assert task.grade(asked(task, expected), f"so <answer>{answer}</answer>") == EXACT


@pytest.mark.parametrize(("expected", "answer"), NOT_RIGHT)
def test_an_answer_that_says_something_else_or_hedges_is_not(expected: str, answer: str, task: Math) -> None:
    assert task.grade(asked(task, expected), f"<answer>{answer}</answer>") in (WRONG, ILLEGAL)


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer[:30])
def test_a_hostile_answer_is_refused_in_time_and_does_nothing(
    answer: str, task: Math, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, mark = asked(task, "12"), tmp_path / "mark"
    started = time.monotonic()
    grade = task.grade(problem, f"<answer>{answer.replace('MARK', str(mark))}</answer>")
    assert time.monotonic() - started < FEW_S
    assert grade in (WRONG, ILLEGAL)
    assert not mark.exists()
    assert task.grade(problem, "<answer>24/2</answer>") == EXACT, "the next one is graded as ever"


@pytest.mark.parametrize(
    ("response", "grade"),
    [
        ("so it is \\boxed{\\frac{24}{2}}.", EXACT),
        ("\\boxed{11}, no: \\boxed{12}", EXACT),
        ("\\boxed{12}<answer>11</answer>", WRONG),
        ("12", ILLEGAL),
        ("\\boxed{12", ILLEGAL),
        ("\\boxed{12}<answer></answer>", ILLEGAL),
    ],
)
def test_what_stands_in_the_tags_counts_else_what_is_boxed(response: str, grade: Grade, task: Math) -> None:
    assert task.grade(asked(task, "12"), response) == grade


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{\\frac{1}{2}} ", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\boxed{1} \\boxed{{2}}", "{2}"),
        ("\\boxed{}", ""),
        ("\\boxed{{1}", None),
        ("1", None),
    ],
)
def test_a_box_is_read_with_its_braces(text: str, inside: str | None) -> None:
    assert boxed(text) == inside


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("48/2 = 24\n24 + 48 = 72\n#### 72", "72"),
        ("So the sum is $\\boxed{\\frac{3}{4}}$.", "\\frac{3}{4}"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "\\left( 3, \\frac{\\pi}{2} \\right)"),
        (72, "72"),
    ],
)
def test_the_result_of_a_worked_answer_is_taken(answer: object, result: str, task: Math) -> None:
    assert task.expected(task.parse(json.dumps({"question": "?", "answer": answer}))) == result


@pytest.mark.parametrize("answer", ["", "####", "so " * 200])
def test_a_row_without_a_result_is_refused_with_the_remedy(answer: str, task: Math) -> None:
    with pytest.raises(ValueError, match=r"expected an answer alone, in \\boxed\{\} or after ####, found"):
        asked(task, answer)


@pytest.mark.timeout(300)
def test_a_run_learns_from_a_saved_data_set(tmp_path: Path) -> None:
    """A dozen problems in GSM8K's form, five updates, and the held-out ones evaluated before and after."""
    made = [
        {"question": f"Ada has {n} shells and finds {n + 3} more: {n} + {n + 3} = ?", "answer": f"#### {2 * n + 3}"}
        for n in range(12)
    ]
    tables = {"train": datasets.Dataset.from_list(made[:9]), "test": datasets.Dataset.from_list(made[9:])}
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "shells"))
    settings = {"name": "math", "path": str(tmp_path / "shells"), "style": "digits"}
    words = [word for key, value in settings.items() for word in ("--set", f"task.{key}={json.dumps(value)}")]
    options = ("--max-updates", "5", "--gpus", "cpu:gen,cpu:train", "--run-dir", str(tmp_path / "run"))
    with launched([*TSD, *words, *SMALL, *options]) as run:
        finish(run, 280)
    found = summary(tmp_path / "run")
    assert found["num_updates"] == 5
    assert found["before"]["num_problems"] == found["after"]["num_problems"] == 3
