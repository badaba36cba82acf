"""Grows trees on an engine, then sends the states they expanded to it again without any search.

The second is a bare loop of the same awaits: the engine's ceiling on the same shapes, as many at once, in the same run.
Keys and values of those states may be cached by then, so the ceiling is on the high side.
"""

import asyncio
import itertools
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from tsd.config import Config, PuctConfig
from tsd.engine import engine_model, make_engine
from tsd.run.child import rare_gc
from tsd.search import Tree, plant, search_by_puct
from tsd.solve.measurement import Measurement, Timings, sum_up
from tsd.tasks import make_task
from tsd.types import CountsCacheHits, Engine, Problem, TextCodec

NUM_CEILING_CALLS = 1600
NULL_DEPTH = 1_000_000
"""Null steps never end an answer; their trees must not end for depth."""
PROBE_S = 0.005

Call = tuple[tuple[int, ...], int, int]
"""A state, the number of samples, and the most tokens of each."""


async def bench_search(
    config: Config, agents: Sequence[int], trees: Sequence[int], problems: int = 0
) -> list[Measurement]:
    """One row for each number of agents and of trees, all on one engine. `config` gives the rest.

    `problems` is how many trees a row grows in all; 0 for as many as it grows at once.
    """
    way = config.method
    if not isinstance(way, PuctConfig):
        raise ValueError("method.kind: expected puct, whose simulations are measured")
    rare_gc()
    directory = engine_model(config)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)
    rows: list[Measurement] = []
    async with generation.engine as engine:
        await Bench(config, way, engine, generation.codec, num_problems=1).warm_up()
        for num_agents, num_trees in itertools.product(agents, trees):
            bench = Bench(config, way, engine, generation.codec, problems or num_trees)
            rows.append(await bench.measure(num_agents, num_trees))
    return rows


@dataclass(frozen=True, slots=True)
class Bench:
    """An engine under measurement, and how many problems it is measured on."""

    config: Config
    way: PuctConfig
    engine: Engine
    codec: TextCodec
    num_problems: int

    async def warm_up(self) -> None:
        """One call; where calls cost nothing one tree, so that the interpreter has met all of the search."""
        (tree,) = self.grove()
        if self.config.engine.kind == "null":
            await search_by_puct(tree, self.engine, self.way)
        await self.engine.expand(tree.prompt, self.way.num_samples, self.config.search.max_step_tokens)

    async def measure(self, agents: int, trees: int) -> Measurement:
        """One row."""
        grove, timings = self.grove(), Timings()
        way = replace(self.way, agents=agents, solutions=0)  # a tree that is solved goes on
        before = _cache_hits(self.engine)
        started_cpu_s = time.thread_time()
        async with _probing(grove, timings):
            timings.seconds = await _timed(lambda: grow_all(grove, self.engine, way, trees))
        timings.cpu_s = time.thread_time() - started_cpu_s
        timings.hit_rate = _rate(before, _cache_hits(self.engine))
        calls = list(itertools.islice(self._calls(grove), NUM_CEILING_CALLS))
        # As many at once as search had on average: agents of a narrow tree wait for each other.
        at_once = round(statistics.fmean(timings.in_flight)) if timings.in_flight else agents * trees
        timings.bare_s = await _timed(lambda: flood(self.engine, calls, max(1, at_once))) / len(calls)
        if agents > 1 and self.config.engine.kind != "null":
            alone = self.grove()
            await grow_all(alone, self.engine, replace(way, agents=1), trees)
            timings.one_agent_solve_rate = statistics.fmean(tree.solved for tree in alone)
        timings.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return sum_up(self.config, way, trees, grove, timings)

    def grove(self) -> list[Tree]:
        """A new tree for each problem."""
        limits = self.config.search
        if self.config.engine.kind == "null":
            limits = replace(limits, max_depth=NULL_DEPTH, max_path_tokens=NULL_DEPTH)
        task = make_task(self.config.task)
        problems: Iterable[Problem] = task.problems("validation", self.num_problems, self.config.seed)
        return [plant(problem, task, self.codec, self.config.task.style, limits) for problem in problems]

    def _calls(self, grove: Sequence[Tree]) -> Iterator[Call]:
        """What the trees asked of the engine."""
        for tree in grove:
            for node in tree.root.walk():
                if node.value is not None:
                    yield tree.state(node), self.way.num_samples, tree.step_room(node)


async def grow_all(grove: Sequence[Tree], engine: Engine, way: PuctConfig, at_once: int) -> None:
    """Grows every tree, `at_once` at a time."""
    waiting = iter(grove)

    async def worker() -> None:
        for tree in waiting:
            await search_by_puct(tree, engine, way)

    await _together(worker, at_once)


async def flood(engine: Engine, calls: Sequence[Call], in_flight: int) -> None:
    """Every call, `in_flight` at once."""
    waiting = iter(calls)

    async def worker() -> None:
        for state, num_samples, max_tokens in waiting:
            await engine.expand(state, num_samples, max_tokens)

    await _together(worker, in_flight)


async def _together(worker: Callable[[], Coroutine[None, None, None]], count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(worker())


@asynccontextmanager
async def _probing(grove: Sequence[Tree], timings: Timings) -> AsyncIterator[None]:
    """Looks in every PROBE_S: how late the loop is, and how many engine calls are under way."""

    async def probe() -> None:
        while True:
            due = time.perf_counter() + PROBE_S
            await asyncio.sleep(PROBE_S)
            timings.lags_s.append(max(0.0, time.perf_counter() - due))
            timings.in_flight.append(sum(tree.num_expanding for tree in grove))

    async with asyncio.TaskGroup() as group:
        probing = group.create_task(probe(), name="probe")
        try:
            yield
        finally:
            probing.cancel()


async def _timed(work: Callable[[], Coroutine[None, None, None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def _cache_hits(engine: Engine) -> tuple[int, int] | None:
    return engine.cache_hits if isinstance(engine, CountsCacheHits) else None


def _rate(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Hits by lookups between two counts."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
