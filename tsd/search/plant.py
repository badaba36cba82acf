"""From a problem to the tree that will search it: what task and codec know, as the tree's callbacks over tokens."""

from collections.abc import Sequence

from tsd.config import SearchConfig
from tsd.protocols import PromptStyle, Task, TextCodec
from tsd.search.tree import Reserve, Tree
from tsd.types import Grade, Position, Problem


def plant(
    problem: Problem,
    task: Task,
    codec: TextCodec,
    style: PromptStyle,
    config: SearchConfig,
    *,
    reserve: Reserve | None = None,
    seed: int = 0,
) -> Tree:
    """A tree of nothing but its root, whose state is the problem's prompt."""

    def grade(tokens: Sequence[int]) -> Grade:
        return task.grade(problem, codec.decode(tokens))

    def read(tokens: Sequence[int]) -> Position:
        return task.read(problem, codec.decode(tokens))

    return Tree(codec.encode(task.prompt(problem, style)), grade, config, read=read, reserve=reserve, seed=seed)
