"""From a problem to the tree that will search it: what task and codec know, as the tree's callbacks over tokens."""

from collections.abc import Sequence

from tsd.config import SearchConfig
from tsd.protocols import Grader, PromptStyle, Task, TextCodec
from tsd.search.calibration import Calibration
from tsd.search.tree import Tree
from tsd.types import Grade, Position, Problem


def plant(
    problem: Problem,
    task: Task,
    codec: TextCodec,
    style: PromptStyle,
    config: SearchConfig,
    *,
    grader: Grader | None = None,
    calibration: Calibration | None = None,
    learns: bool = False,
    seed: int = 0,
) -> Tree:
    """A tree of nothing but its root, whose state is the problem's prompt; `grader` in place of the task's grade."""

    def grade(tokens: Sequence[int]) -> Grade:
        response = codec.decode(tokens)
        return task.grade(problem, response) if grader is None else grader(problem, response, len(tokens))

    def read(tokens: Sequence[int]) -> Position:
        position = task.read(problem, codec.decode(tokens))
        # What an answer will be worth to the task, it may not be to another grader.
        return position if grader is None else Position(dead=position.dead)

    prompt = codec.encode(task.prompt(problem, style))
    return Tree(prompt, grade, config, read=read, calibration=calibration, learns=learns, seed=seed)
