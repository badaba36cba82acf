"""`tsd doctor --task`: a task is tried on a few problems of each split, as a run would use it. Starts no model."""

import time
from collections.abc import Iterator
from statistics import median

from tsd.config import Config
from tsd.doctor.machine import Finding
from tsd.errors import TaskError
from tsd.tasks import make_task
from tsd.tasks.checked import Checked
from tsd.tasks.splits import check_splits
from tsd.types import Problem, Task

NUM_PROBLEMS = 10
"""Problems of each split that are tried."""
SLOW_MS = 10.0
"""A grade that takes longer holds up all trees of a generator for more than a model's step."""
RESPONSES = {
    "an empty response": "",
    "one without an answer": "I do not know.",
    "an empty answer": "<answer></answer>",
    "an answer that never ends": "<answer>1",
    "a very long answer": f"<answer>{'1+' * 50_000}1</answer>",
    "letters that are not ASCII": "<answer>\u096a\u0968 \u221a\u00e9 \U0001f600</answer>",
    "a NUL character": "<answer>4\x002</answer>",
}
"""Odd ones, as models write now and then; none solves a problem."""


def examine_task(config: Config) -> Iterator[Finding]:
    """What is wrong with it, or that nothing is."""
    try:
        made = make_task(config.task)
        task = made if isinstance(made, Checked) else Checked(made, config.task.grade_timeout_s)
        drawn = check_splits(task, ("validation", "heldout"), config)
        problems = [problem for found in drawn.values() for problem in found[:NUM_PROBLEMS]]
    except (ValueError, TaskError) as error:
        yield Finding("problems", "error", str(error))
        return
    yield Finding("problems", "fine", f"{len(problems)} of task {task.name}, and no training problem in another split")
    try:
        yield _prompts(config, task, problems)
    except TaskError as error:
        yield Finding("prompts", "error", str(error))
    yield from _grading(task, problems)


def _prompts(config: Config, task: Task, problems: list[Problem]) -> Finding:
    """Whether each is there, and the same whenever it is asked for."""
    for problem in problems:
        first, second = (task.prompt(problem, config.task.style) for _ in range(2))
        if first != second:
            text = f"two calls for one problem give {first[:60]!r} and {second[:60]!r}; the problem: {problem.text}"
            return Finding("prompts", "error", text, "make it a function of the problem alone")
        if not first.strip():
            return Finding("prompts", "error", f"an empty one; the problem: {problem.text}")
    return Finding("prompts", "fine", f"such as {first[:60]!r}")


def _grading(task: Task, problems: list[Problem]) -> Iterator[Finding]:
    """Whether odd responses are graded, none as a solution, and how long that takes."""
    times_ms = list[float]()
    for what, response in RESPONSES.items():
        try:
            for problem in problems:
                started = time.perf_counter()
                grade = task.grade(problem, response)
                times_ms.append(1000 * (time.perf_counter() - started))
                if grade.exact:
                    raise TaskError(f"it counts as a solution; the problem: {problem.text}")
        except TaskError as error:
            yield Finding("grading", "error", f"{what}: {error}")
    if times_ms:
        slow = median(times_ms) > SLOW_MS
        took = f"{len(times_ms)} odd responses: median {median(times_ms):.2g} ms, slowest {max(times_ms):.2g} ms"
        remedy = "search waits for every grade; make it quicker" if slow else ""
        yield Finding("grading", "warning" if slow else "fine", took, remedy)
