"""Problems answered with search: what it found, and the whole tree for whoever wants to look.

Knows nothing about training: the model stays as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from tsd.config import Config
from tsd.engine import Generation, engine_model, make_engine
from tsd.search import Calibration, Memory, Tree, TreeRecord, Way, best_rewarded, plant, record, resume, search, way_of
from tsd.search.calibration import load_calibration
from tsd.search.chroma import open_memory
from tsd.tasks import make_task
from tsd.types import Grade, Problem, Task


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


@dataclass(frozen=True, slots=True)
class Solver:
    """A model that is ready to search, as long as its engine is entered."""

    config: Config
    way: Way
    task: Task
    generation: Generation
    calibration: Calibration
    memory: Memory | None

    def begin(self, text: str, saved: TreeRecord | None = None) -> tuple[Problem, Tree]:
        """A problem, and the tree to search; `saved` is one to go on with.

        Raises ValueError for a problem the task cannot read, or a tree of another one.
        """
        problem = self.task.parse(text)
        limits, style = self.config.search, self.config.task.style
        tree = plant(problem, self.task, self.generation.codec, style, limits, seed=self.config.seed)
        if saved is not None:
            if saved.prompt != tree.prompt:
                raise ValueError(f"the saved tree is of another problem or model: its prompt is {saved.prompt_text!r}")
            resume(saved, tree)
        return problem, tree

    async def solve(self, problem: Problem, tree: Tree, way: Way | None = None) -> Solution:
        """Searches up to the budget, in a `way` of its own where there is one."""
        engine, codec = self.generation.engine, self.generation.codec
        ended_by = await search(tree, engine, way or self.way, self.calibration, self.memory)
        path = await best_rewarded(tree, engine)
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

    def record(self, tree: Tree) -> TreeRecord:
        """The tree as data, with its steps' texts."""
        return record(tree, self.generation.codec.decode)


def make_solver(config: Config) -> Solver:
    """Raises ValueError for a model that cannot be read, or a method that does not search."""
    way, directory = way_of(config), engine_model(config)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)
    calibration, memory = load_calibration(directory), open_memory(config.search)
    return Solver(config, way, make_task(config.task), generation, calibration, memory)


def read_tree(path: Path) -> TreeRecord:
    """A tree that `tsd solve --tree` wrote. Raises ValueError naming the file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TreeRecord)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no tree that `tsd solve --tree` wrote: {error}") from None
