"""From a problem to the tree that will search it: what task and codec know, as the tree's callbacks over tokens."""

from collections.abc import Sequence

from tsd.config import SearchConfig
from tsd.search.tree import Tree
from tsd.types import Grade, Grader, Problem, PromptStyle, Task, TextCodec


def plant(
    problem: Problem,
    task: Task,
    codec: TextCodec,
    style: PromptStyle,
    limits: SearchConfig,
    *,
    grader: Grader | None = None,
    seed: int = 0,
) -> Tree:
    """A tree of nothing but its root, whose state is the problem's prompt; `grader` in place of the task's grade."""

    def grade(tokens: Sequence[int]) -> Grade:
        response = codec.decode(tokens)
        return task.grade(problem, response) if grader is None else grader(problem, response, len(tokens))

    return Tree(codec.encode(task.prompt(problem, style)), grade, limits, seed=seed)
