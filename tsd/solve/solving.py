"""Solving against tokens: what a model solves by search, by samples, and by choosing among samples.

The first two stop at a solution, which the task's grade tells, or give a problem up; the others give one answer that
nobody has looked at.
"""

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tsd.config import Config, IndexConfig
from tsd.engine import Generation
from tsd.search import Calibration, Memory, plant, search, way_of
from tsd.search.chroma import open_memory
from tsd.tasks.answers import answer_of
from tsd.types import Problem, Step, Task

BUDGET, GIVE_UP = 1500, 0.4
"""A problem's budget in tokens where solving is compared, and when it is given up (`method.give_up`): chosen on
validation problems 400 to 799, where search then solves as many as samples do."""
NUM_RESAMPLED = 1000
WAYS = ("samples", "samples that give up", "best", "majority", "search to the end", "search")
"""The first and the fifth spend a problem's whole budget where they do not solve it."""
TREES_AT_ONCE = 32
NUM_CHOICES = 16
"""Samples of which one is chosen."""

Solver = Callable[[Problem], Awaitable["Attempt"]]


class Attempt(msgspec.Struct, frozen=True):
    """One problem."""

    solved: bool
    num_tokens: int
    """Generated for it, in all."""


class Solving(msgspec.Struct, frozen=True, kw_only=True):
    """What one way of solving comes to."""

    way: str
    num_problems: int
    solved: float
    """Share of the problems."""
    tokens: float
    """A problem, on average."""
    per_1000_tokens: float
    """Problems solved."""
    ci95: tuple[float, float]
    """Its percentile bootstrap over problems."""


async def attempt_all(way: str, problems: Sequence[Problem], solver: Solver, at_once: int) -> Solving:
    """Every problem, `at_once` at a time."""
    waiting, attempts = iter(problems), list[Attempt]()

    async def worker() -> None:
        for problem in waiting:
            attempts.append(await solver(problem))

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(worker(), name=f"{way} {number}")
    return summarise(way, attempts)


async def compare_solving(
    generation: Generation,
    task: Task,
    problems: Sequence[Problem],
    config: Config,
    calibration: Calibration,
    *,
    agents: Sequence[int] = (1,),
    ways: Sequence[str] = WAYS,
) -> list[Solving]:
    """A row for each way, one after the other on one engine; search with each number of agents."""
    to_the_end, memory = _with(config, give_up=0.0), await asyncio.to_thread(open_memory, config.search)
    solvers = {
        "samples": by_samples(generation, task, to_the_end, calibration),
        "samples that give up": by_samples(generation, task, config, calibration),
        "best": by_choice(generation, task, config, majority=False),
        "majority": by_choice(generation, task, config, majority=True),
        "search to the end": by_search(generation, task, _with(to_the_end, agents=agents[0]), calibration, memory),
    }
    rows = [await attempt_all(way, problems, solvers[way], TREES_AT_ONCE) for way in ways if way in solvers]
    for number in agents if "search" in ways else ():
        solver = by_search(generation, task, _with(config, agents=number), calibration, memory)
        rows.append(await attempt_all(f"search, agents: {number}", problems, solver, TREES_AT_ONCE))
    return rows


def solving_table(rows: Sequence[Solving]) -> str:
    """The rows as text, and search's ratios to independent samples."""
    lines = [f"{'':<24}{'solved':>8}{'tokens':>8}{'solved per 1,000':>18}   95%"]
    for row in rows:
        low, high = row.ci95
        numbers = f"{row.solved:>8.1%}{row.tokens:>8.0f}{row.per_1000_tokens:>18.3f}"
        lines.append(f"{row.way:<24}{numbers}   [{low:.2f}, {high:.2f}]")
    samples = next((row for row in rows if row.way == "samples"), None)
    if samples is not None and samples.per_1000_tokens:
        for row in rows:
            if row.way.startswith("search"):
                lines.append(f"ratio, {row.way}: {row.per_1000_tokens / samples.per_1000_tokens:.2f}")
    return "\n".join(lines)


def summarise(way: str, attempts: Sequence[Attempt]) -> Solving:
    """Means, and the interval of solutions per 1,000 tokens."""
    rng = random.Random(0)
    rates = sorted(_rate(rng.choices(attempts, k=len(attempts))) for _ in range(NUM_RESAMPLED))
    return Solving(
        way=way,
        num_problems=len(attempts),
        solved=statistics.fmean(attempt.solved for attempt in attempts),
        tokens=statistics.fmean(attempt.num_tokens for attempt in attempts),
        per_1000_tokens=_rate(attempts),
        ci95=(rates[NUM_RESAMPLED * 25 // 1000], rates[NUM_RESAMPLED * 975 // 1000 - 1]),
    )


def _rate(attempts: Sequence[Attempt]) -> float:
    return 1000 * sum(one.solved for one in attempts) / max(1, sum(one.num_tokens for one in attempts))


def by_search(
    generation: Generation, task: Task, config: Config, calibration: Calibration, memory: Memory | None = None
) -> Solver:
    """A tree as `[method]` says, until it is solved, given up, or its budget is spent."""
    way = way_of(config)

    async def solve(problem: Problem) -> Attempt:
        tree = plant(problem, task, generation.codec, config.task.style, config.search)
        await search(tree, generation.engine, way, calibration, memory)
        return Attempt(tree.solved, tree.num_generated)

    return solve


def by_samples(generation: Generation, task: Task, config: Config, calibration: Calibration) -> Solver:
    """Independent samples, one after the other, until one is right or search's budget of tokens is spent.

    Given up as search gives up: where the mean of the problem's Beta posterior falls to that share of a new problem's.
    """
    way = _way(config)

    async def solve(problem: Problem) -> Attempt:
        prompt, num_tokens, num_failed = generation.codec.encode(task.prompt(problem, config.task.style)), 0, 0
        while num_tokens < way.max_tokens and calibration.hope(num_failed) >= way.give_up:
            (sample,) = await generation.engine.sample(prompt, 1, config.search.max_path_tokens)
            num_tokens += len(sample.tokens)
            if task.grade(problem, generation.codec.decode(sample.tokens)).exact:
                return Attempt(True, num_tokens)
            num_failed += 1
        return Attempt(False, num_tokens)

    return solve


def _way(config: Config) -> IndexConfig:
    """How the search that is compared goes. Raises ValueError where that is not by index."""
    if not isinstance(config.method, IndexConfig):
        raise ValueError("method.kind: expected index, which solving is compared by")
    return config.method


def _with(config: Config, **changes: object) -> Config:
    """The same with another search."""
    return msgspec.structs.replace(config, method=msgspec.structs.replace(_way(config), **changes))


def by_choice(generation: Generation, task: Task, config: Config, *, majority: bool) -> Solver:
    """The best of 16 samples by V at its end, or the answer that most of them give."""

    async def solve(problem: Problem) -> Attempt:
        prompt = generation.codec.encode(task.prompt(problem, config.task.style))
        samples = await generation.engine.sample(prompt, NUM_CHOICES, config.search.max_path_tokens)
        texts = [generation.codec.decode(sample.tokens) for sample in samples]
        chosen = _most_common(texts) if majority else _highest_valued(texts, samples)
        return Attempt(task.grade(problem, chosen).exact, sum(len(sample.tokens) for sample in samples))

    return solve


def _most_common(texts: Sequence[str]) -> str:
    """The first of those whose answer most give."""
    count = Counter(answer_of(text) for text in texts)
    return max(texts, key=lambda text: count[answer_of(text)] if answer_of(text) else 0)


def _highest_valued(texts: Sequence[str], samples: Sequence[Step]) -> str:
    """The one before whose last token V was highest."""
    return max(zip(texts, samples, strict=True), key=lambda pair: pair[1].values[-1])[0]
