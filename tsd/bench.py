"""`tsd bench-search`: how fast search runs on an engine, and what share of the engine's own speed it reaches.

Grows trees, then sends the states they asked for to the same engine again, as many at once but without any search: its
ceiling on the same shapes, in the same run. Keys and values of those states may be cached by then, so the ceiling is
on the high side. Knows nothing about training.
"""

import asyncio
import itertools
import resource
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tsd.config import Config
from tsd.engine import make_engine
from tsd.model.files import model_path
from tsd.protocols import Engine
from tsd.search import Tree, grow, tree_hash
from tsd.tasks import make_task
from tsd.types import Expansion, Grade, Problem, Step, WeightUpdate

NUM_CEILING_STATES = 512
NULL_DEPTH = 1_000_000
"""Null steps never end an answer; their trees must not end for depth."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    engine: str
    agents: int
    trees: int
    simulations: int
    """Of each tree, as asked for; a tree with nothing left to search ends sooner."""
    seed: int
    us_per_sim: float
    """Wall-clock microseconds per simulation, engine included: with `null`, what search itself costs."""
    sims_per_s: float
    expansions_per_s: float
    tokens_per_s: float
    engine_ceiling_expansions_per_s: float
    ceiling_share: float
    num_simulations: int
    num_collisions: int
    num_duplicates: int
    solve_rate: float
    residual_in_flight: int
    """Simulations still marked in a tree after its end: must be 0."""
    peak_memory_mb: float
    tree_hash: str
    """Of the first tree; the same for the same seed on null and mock, with one tree."""


@dataclass(slots=True)
class Recorder:
    """An `Engine` that passes everything on and remembers the first states it was asked to expand."""

    inner: Engine
    states: list[tuple[tuple[int, ...], int, int]] = field(default_factory=list)

    @property
    def version(self) -> int:
        return self.inner.version

    async def expand(self, state: Sequence[int], num_samples: int, max_tokens: int) -> Expansion:
        if len(self.states) < NUM_CEILING_STATES:
            self.states.append((tuple(state), num_samples, max_tokens))
        return await self.inner.expand(state, num_samples, max_tokens)

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        return await self.inner.sample(state, num_samples, max_tokens)

    async def load(self, weights: WeightUpdate) -> None:
        await self.inner.load(weights)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


async def bench_search(config: Config, agents: Sequence[int], trees: Sequence[int]) -> list[Row]:
    """One row for each number of agents and of trees, all on one engine. `config.search` gives the rest."""
    task = make_task(config.task)
    problems = itertools.cycle(task.problems("validation", 64, config.seed))
    directory: Path | None = None if config.engine.kind in ("null", "mock") else model_path(config.model.path)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)

    def plant(problem: Problem, search_agents: int) -> Tree:
        changes = {"agents": search_agents, "stop_when_solved": False}
        if config.engine.kind == "null":
            changes |= {"max_depth": NULL_DEPTH, "max_path_tokens": NULL_DEPTH}
        search = msgspec.structs.replace(config.search, **changes)

        def grade(tokens: Sequence[int]) -> Grade:
            return task.grade(problem, generation.codec.decode(tokens))

        return Tree(generation.codec.encode(task.prompt(problem, config.task.style)), grade, search)

    rows: list[Row] = []
    async with generation.engine as engine:
        await engine.expand(plant(next(problems), 1).prompt, config.search.num_samples, config.search.max_step_tokens)
        for num_agents, num_trees in itertools.product(agents, trees):
            grove = [plant(next(problems), num_agents) for _ in range(num_trees)]
            rows.append(await _measure(config, engine, grove, num_agents))
    return rows


async def _measure(config: Config, engine: Engine, grove: list[Tree], agents: int) -> Row:
    recorder = Recorder(engine)
    seconds = await _timed(lambda: _all(grow(tree, recorder) for tree in grove))
    simulations, expansions = sum(tree.num_simulations for tree in grove), sum(tree.num_expansions for tree in grove)
    ceiling_s = await _timed(lambda: _flood(engine, recorder.states, agents * len(grove)))
    ceiling = len(recorder.states) / ceiling_s
    return Row(
        engine=config.engine.kind,
        agents=agents,
        trees=len(grove),
        simulations=config.search.simulations,
        seed=config.seed,
        us_per_sim=1e6 * seconds / simulations,
        sims_per_s=simulations / seconds,
        expansions_per_s=expansions / seconds,
        tokens_per_s=sum(tree.num_generated for tree in grove) / seconds,
        engine_ceiling_expansions_per_s=ceiling,
        ceiling_share=expansions / seconds / ceiling,
        num_simulations=simulations,
        num_collisions=sum(tree.num_collisions for tree in grove),
        num_duplicates=sum(tree.num_duplicates for tree in grove),
        solve_rate=sum(tree.solved for tree in grove) / len(grove),
        residual_in_flight=sum(node.in_flight for tree in grove for node in tree.root.walk()),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        tree_hash=tree_hash(grove[0]),
    )


async def _all(work: Iterable[Coroutine[None, None, str]]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)


async def _flood(engine: Engine, states: Sequence[tuple[tuple[int, ...], int, int]], in_flight: int) -> None:
    """Every state through the engine, `in_flight` at once."""
    waiting = iter(states)

    async def worker() -> None:
        for state, num_samples, max_tokens in waiting:
            await engine.expand(state, num_samples, max_tokens)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())


async def _timed(work: Callable[[], Coroutine[None, None, None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started
