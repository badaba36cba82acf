"""Four of the five changes of tsd/docs/changes.md, each made from outside: nothing of tsd is edited.

A loss has no such seam: its configuration and its `case` are where mypy finds them.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import pytest

from tests.support.fakes import step
from tsd.config import IndexConfig, PuctConfig, SearchConfig, TaskConfig
from tsd.engine.mock import CharCodec, MockEngine
from tsd.learn.rows import lay_out
from tsd.methods import Method
from tsd.methods.targets import Targets, path_targets
from tsd.search import Calibration, Node, Tree, lone, plant, search_by_index, search_by_puct
from tsd.search.index import Index, Prospect
from tsd.tasks import make_task
from tsd.tasks.countdown import Countdown
from tsd.types import Engine, Expansion, Grade, Problem, PromptStyle, Split, Step, Trajectory, WeightUpdate

PROBLEM = "5 13 5 9 = 31"
LIMITS = SearchConfig()


def countdown_tree() -> Tree:
    task = Countdown()
    return plant(task.parse(PROBLEM), task, CharCodec(), "compact", LIMITS)


class Vowels:
    """A task: an answer with as many vowels as asked for."""

    def __init__(self, config: TaskConfig) -> None:
        self.name = "vowels"

    def parse(self, line: str) -> Problem:
        return Problem(line, str(int(line)))

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        first = ("train", "validation", "heldout").index(split)
        yield from (self.parse(str(i)) for i in range(first, 3 * count, 3))

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        return f"{problem.text} vowels:"

    def grade(self, problem: Problem, response: str) -> Grade:
        exact = sum(letter in "aeiou" for letter in response) == int(problem.text)
        return Grade(1.0 if exact else -1.0, exact, True)


class Alphabet:
    """An engine: each step is one letter, a to d, and d ends the answer."""

    version = 0

    def __init__(self) -> None:
        self.rng = random.Random(0)

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        letters = [one for one in map(ord, "abcd") if one not in excluded]
        return Expansion(0.0, tuple(self._step(self.rng.choice(letters)) for _ in range(num_samples)))

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        return tuple(step(ord("a"), ord("d"), finish="end") for _ in range(num_samples))

    def _step(self, letter: int) -> Step:
        return step(letter, finish="end" if letter == ord("d") else "step", logprob=-1.4)

    async def load(self, weights: WeightUpdate) -> float:
        self.version = weights.version
        return 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


async def test_a_task_and_an_engine_from_outside_are_searched_by_both_ways() -> None:
    task = make_task(TaskConfig(name=f"{__file__}:Vowels"))
    for search in (search_with_index, search_with_puct):
        tree = plant(task.parse("2"), task, CharCodec(), "compact", LIMITS)
        async with Alphabet() as engine:
            assert await search(tree, engine) == "solved"


async def search_with_index(tree: Tree, engine: Engine) -> str:
    return await search_by_index(tree, engine, IndexConfig(max_tokens=4000, solutions=1), Calibration())


async def search_with_puct(tree: Tree, engine: Engine) -> str:
    return await search_by_puct(tree, engine, PuctConfig(simulations=4000, solutions=1))


class Deepest(Index):
    """A selection rule: go on from the deepest state that has anything new left."""

    def __call__(self, prospect: Prospect) -> float:
        return float(super().__call__(prospect) > 0) * (1 + prospect.node.depth)


async def test_another_index_chooses_in_search_by_index() -> None:
    tree = countdown_tree()
    engine = MockEngine(solve_rate=0.3)
    way = IndexConfig(agents=1, max_tokens=300, solutions=0)
    await search_by_index(tree, engine, way, Calibration(), rule=Deepest)
    ends = [node for node in tree.root.walk() if not node.made]
    assert len({node.path()[0] for node in ends}) == 1, "it left its first step before that had nothing left"


async def test_another_selection_chooses_in_search_by_puct() -> None:
    tree, rng, num_called = countdown_tree(), random.Random(0), 0

    def at_random(path: list[Node], c_puct: float, virtual_loss: float) -> Node:
        nonlocal num_called
        num_called += 1
        node = path[-1]
        while children := [child for child in node.make_children() if not child.closed]:
            node = rng.choice(children)
            node.passed += 1
            path.append(node)
        return node

    way = PuctConfig(agents=2, simulations=50, solutions=0)
    await search_by_puct(tree, MockEngine(solve_rate=0.3), way, select=at_random)
    assert num_called >= tree.root.visits > 20


class FirstOfTwo:
    """A method: of two samples the first one, every token by its reward."""

    async def collect(self, tree: Tree, engine: Engine) -> list[Trajectory]:
        first, second = await engine.sample(tree.prompt, 2, tree.limits.max_path_tokens)
        tree.num_generated += len(first.tokens) + len(second.tokens)
        return [lone(tree, first, tree.grade(first.tokens))]

    def targets(self, group: Sequence[Trajectory]) -> list[Targets]:
        return [path_targets(one, np.full(len(one.tokens), one.grade.reward)) for one in group]


async def test_a_method_from_outside_collects_and_its_targets_reach_the_rows() -> None:
    method: Method = FirstOfTwo()
    trajectories = await method.collect(countdown_tree(), MockEngine(solve_rate=0.3))
    (row,) = lay_out(trajectories, method.targets, max_tokens=512)
    assert row.targets.advantages == pytest.approx([trajectories[0].grade.reward] * len(row.sampled))


class WeightFiles:
    """A way for weights to travel: a file for each version."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def publish(self, update: WeightUpdate) -> None:
        tensors = {name: tensor.tolist() for name, tensor in update.tensors.items()}
        (self.directory / f"{update.version:09d}.json").write_bytes(msgspec.json.encode(tensors))

    def fetch(self) -> WeightUpdate:
        newest = max(self.directory.iterdir())
        tensors = msgspec.json.decode(newest.read_bytes())
        return WeightUpdate(int(newest.stem), {name: np.array(one, np.float32) for name, one in tensors.items()})


async def load(engine: Engine, update: WeightUpdate) -> None:
    await engine.load(update)


def test_weights_that_travel_by_files_are_what_an_engine_loads(tmp_path: Path) -> None:
    files, engine = WeightFiles(tmp_path), MockEngine(solve_rate=0.1)
    for version in (1, 2):
        files.publish(WeightUpdate(version, {"solve_rate": np.array([0.4 * version], np.float32)}))
    asyncio.run(load(engine, files.fetch()))
    assert engine.version == 2
