"""reasoning-gym as a task: problems by number, scorers that can do no harm and take no time."""

import json
import os
import signal
import time
from pathlib import Path
from typing import get_args

import psutil
import pytest

from tests.support.command import tsd
from tests.support.launching import launched, until
from tests.support.runs import SMALL, TSD, finish, summary
from tsd.config import TaskConfig
from tsd.tasks import make_task
from tsd.tasks.gym import ILLEGAL, Gym
from tsd.tasks.worker import GRADE_S
from tsd.types import Grade, Problem, Split, Task

pytest.importorskip("reasoning_gym", reason="needs pip install 'tsd[reasoning-gym]'")

SUMS = ("--set", "task.name=reasoning-gym", "--set", "task.dataset=chain_sum")
SPLITS: tuple[Split, ...] = get_args(Split)


def gym(dataset: str, **options: int) -> Task:
    return make_task(TaskConfig(name="reasoning-gym", dataset=dataset, options=dict(options)))


@pytest.fixture(scope="module")
def sums() -> Task:
    return gym("chain_sum")


@pytest.fixture(scope="module")
def spirals() -> Task:
    """Its scorer gives answers to `eval`."""
    return gym("spiral_matrix")


def answered(task: Task, problem: Problem, answer: str) -> Grade:
    return task.grade(problem, f"<step>1</step><answer>{answer}</answer>")


def test_the_librarys_own_scorer_grades() -> None:
    small = gym("chain_sum", min_terms=2, max_terms=2, max_digits=1)
    problem = small.parse("7")
    result = eval(json.loads(problem.text)["question"].rpartition(": ")[2].removesuffix("="))
    assert answered(small, problem, f" {result} ") == Grade(1.0, exact=True, well_formed=True)
    assert answered(small, problem, f"{result}{result}").reward == 0.5
    assert answered(small, problem, "x") == Grade(0.0, exact=False, well_formed=True)
    for response in ("", str(result), "<answer></answer>", "<answer>" + "1" * 99_999 + "</answer>"):
        assert small.grade(problem, response) == ILLEGAL


def test_splits_share_no_question_and_are_the_same_each_time(sums: Task) -> None:
    found = {split: [problem.text for problem in sums.problems(split, 100, seed=3)] for split in SPLITS}
    questions = {json.loads(text)["question"] for texts in found.values() for text in texts}
    assert len(questions) == 300
    assert found["heldout"] == [problem.text for problem in gym("chain_sum").problems("heldout", 100, seed=3)]
    assert not set(found["train"]) & {problem.text for problem in sums.problems("train", 100, seed=4)}


def test_a_data_set_with_few_problems_gives_what_it_has() -> None:
    few = gym("chain_sum", min_terms=2, max_terms=2, max_digits=1)
    assert 100 < len({problem.text for problem in few.problems("train", 1000, seed=0)}) < 200


def test_data_sets_that_draw_all_their_problems_at_once_are_served() -> None:
    assert gym("list_functions").parse("123456789").id == "list_functions-123456789"


def test_a_line_is_read_back_and_one_that_does_not_fit_is_refused(sums: Task) -> None:
    problem = sums.parse(" 12 ")
    assert sums.parse(problem.text) == problem
    for line, message in (
        (problem.text.replace("chain_sum", "products"), "expected a problem of chain_sum, found one of 'products'"),
        (problem.text.replace("State", "Say"), "chain_sum 12 is another problem in this version"),
        ("x", 'expected {"dataset":"...","number":7} or 7, found'),
        ("9" * 30, "expected"),
    ):
        with pytest.raises(ValueError, match=message.replace("{", r"\{")):
            sums.parse(line)


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("", {}, "task.dataset: name a data set"),
        ("countdown", {}, 'use task.name = "countdown"'),
        ("leg_conting", {}, "reasoning-gym cannot make 'leg_conting': ValueError"),
        ("chain_sum", {"legs": 3}, "reasoning-gym cannot make 'chain_sum': TypeError"),
        ("chain_sum", {"min_terms": 0}, "reasoning-gym cannot make 'chain_sum': AssertionError"),
    ],
)
def test_what_the_library_does_not_make_is_refused(dataset: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as found:
        gym(dataset, **options)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9",
        "__import__('time').sleep(99)",
        "__import__('os')._exit(0)",
        "'9'*10**12",
        "[" * 10_000,
        "__import__('os').system('touch MARK')",
        "open('MARK', 'w')",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "__import__('os').fork()",
        "__import__('subprocess').run(['touch', 'MARK'])",
        "__import__('socket').create_server(('127.0.0.1', 0))",
    ],
)
def test_an_answer_that_is_taken_for_a_program_ends_in_time_and_does_nothing(
    answer: str, spirals: Task, tmp_path: Path
) -> None:
    mark, problem = tmp_path / "mark", spirals.parse("7")
    started = time.monotonic()
    grade = answered(spirals, problem, answer.replace("MARK", str(mark)))
    assert time.monotonic() - started < GRADE_S + 0.5
    assert grade.reward <= 0.0
    assert not grade.exact
    assert not mark.exists()
    assert answered(spirals, problem, "1 2").well_formed, "the next one is scored as ever"


def test_a_score_costs_little(sums: Task) -> None:
    problem, times = sums.parse("7"), []
    for number in range(200):
        started = time.perf_counter()
        answered(sums, problem, str(number))
        times.append(time.perf_counter() - started)
    assert sorted(times)[100] < 0.005


def test_a_task_that_is_let_go_ends_its_process() -> None:
    task = gym("chain_sum")
    assert isinstance(task, Gym)
    pid = task._worker._process.pid
    assert psutil.pid_exists(pid)
    del task
    assert not psutil.pid_exists(pid)


def test_a_worker_that_dies_is_replaced() -> None:
    task = gym("chain_sum")
    assert isinstance(task, Gym)
    problem = task.parse("7")
    os.kill(task._worker._process.pid, signal.SIGKILL)
    assert answered(task, problem, "1") == ILLEGAL
    until(lambda: answered(task, problem, "1").well_formed, "the new worker", 30.0)


def test_a_task_whose_process_is_killed_leaves_none(tmp_path: Path) -> None:
    """Even while a scorer never ends."""
    program = (
        "import sys; from tsd.config import TaskConfig; from tsd.tasks import make_task\n"
        "task = make_task(TaskConfig(name='reasoning-gym', dataset='spiral_matrix'))\n"
        "problem = task.parse('7'); print('ready', flush=True)\n"
        "while True: task.grade(problem, '<answer>9**9**9</answer>')"
    )
    with launched([TSD[0], "-c", program]) as run:
        assert run.process.stdout is not None
        assert run.process.stdout.readline() == "ready\n"
        assert len(run.alive()) == 3
        run.process.kill()
        until(lambda: run.alive() == [], "the end of all three", 10.0)


def test_solve_takes_a_problem_by_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert tsd("solve", "7", "--tokens", "50", *SUMS, "--set", "task.style=digits", "--json") == 0
    assert json.loads(json.loads(capsys.readouterr().out)["problem"])["number"] == 7


@pytest.mark.timeout(180)
def test_a_run_learns_from_a_data_set(tmp_path: Path) -> None:
    options = ("--set", "task.style=digits", "--max-updates", "2", "--gpus", "cpu:gen,cpu:train")
    with launched([*TSD, *SUMS, *SMALL, *options, "--run-dir", str(tmp_path / "run")]) as run:
        finish(run, 150)
    assert summary(tmp_path / "run")["num_updates"] == 2
