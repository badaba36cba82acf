"""`tsd solve`: one problem answered with search; what it found, and the whole tree for whoever wants to look.

Knows nothing about training: the model stays as it is.
"""

from collections.abc import Coroutine
from pathlib import Path

import msgspec

from tsd.config import Config
from tsd.engine import Generation, engine_model, make_engine
from tsd.search import (
    Calibration,
    Tree,
    TreeRecord,
    Way,
    best_rewarded,
    plant,
    record,
    resume,
    search,
    way_of,
)
from tsd.search.calibration import load_calibration
from tsd.tasks import make_task
from tsd.types import Grade, Problem, TextCodec, Trajectory


class Solution(msgspec.Struct, frozen=True, kw_only=True):
    """The best path that search found."""

    problem: str
    steps: tuple[str, ...]
    """Its text, step by step; the last one holds the answer."""
    grade: Grade
    ended_by: str
    """Why search stopped: `solved`, `exhausted`, or the budget that was used up."""
    num_simulations: int
    num_expansions: int
    num_nodes: int
    generated_tokens: int


def solve(
    config: Config, text: str, saved: TreeRecord | None = None
) -> Coroutine[None, None, tuple[Solution, TreeRecord]]:
    """Reads problem and model, and returns the search to be awaited; `saved` is a tree to go on with.

    Raises ValueError for a problem the task cannot read, a tree of another one, or a method that does not search.
    """
    way, task = way_of(config), make_task(config.task)
    problem = task.parse(text)
    directory = engine_model(config)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)
    calibration = load_calibration(directory)
    limits, style = config.search, config.task.style
    tree = plant(problem, task, generation.codec, style, limits, seed=config.seed)
    if saved is not None:
        if saved.prompt != tree.prompt:
            raise ValueError(f"the saved tree is of another problem or model: its prompt is {saved.prompt_text!r}")
        resume(saved, tree)
    return _search(way, problem, tree, generation, calibration)


async def _search(
    way: Way, problem: Problem, tree: Tree, generation: Generation, calibration: Calibration
) -> tuple[Solution, TreeRecord]:
    async with generation.engine as engine:
        ended_by = await search(tree, engine, way, calibration)
        path = await best_rewarded(tree, engine)
    codec = generation.codec
    return _solution(problem, tree, path, codec, ended_by), record(tree, codec.decode)


def _solution(problem: Problem, tree: Tree, path: Trajectory, codec: TextCodec, ended_by: str) -> Solution:
    return Solution(
        problem=problem.text,
        steps=tuple(codec.decode(step) for step in path.steps),
        grade=path.grade,
        ended_by=ended_by,
        num_simulations=tree.num_simulations,
        num_expansions=tree.num_expansions,
        num_nodes=tree.num_nodes,
        generated_tokens=tree.num_generated,
    )


def read_tree(path: Path) -> TreeRecord:
    """A tree that `tsd solve --tree` wrote. Raises ValueError naming the file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TreeRecord)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no tree that `tsd solve --tree` wrote: {error}") from None
