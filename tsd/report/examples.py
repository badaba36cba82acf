"""The same few held-out problems searched by the model a run began with and by the one it has come to.

Knows nothing about how trees are shown. The run's files stay as they are.
"""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tsd.config import Config, IndexConfig
from tsd.engine import Generation, engine_model, make_engine
from tsd.errors import TsdError
from tsd.learn.checkpoint import latest_checkpoint
from tsd.report.run import RunReport
from tsd.search import Calibration, Tree, TreeRecord, Way, plant, record, search
from tsd.search.calibration import load_calibration
from tsd.tasks import make_task
from tsd.tasks.splits import HELDOUT_SEED
from tsd.types import Problem

NUM_PROBLEMS = 3
MAX_TOKENS = 600
"""Budget of each tree: a report is to take seconds."""


class Example(Struct, frozen=True, kw_only=True):
    """One problem."""

    problem: str
    before: TreeRecord
    after: TreeRecord | None
    """None where the run has no checkpoint yet."""


class Examples(Struct, frozen=True, kw_only=True):
    """One run's trees."""

    found: tuple[Example, ...] = ()
    left_out: str | None = None
    """Why there are none."""


def search_examples(run: RunReport) -> Examples:
    """Some seconds of search; where the run's engine or model is not to be had, the reason instead."""
    config = run.config
    if config.engine.kind == "vllm" and find_spec("vllm") is None:
        return Examples(left_out="the run's engine, vllm, is not installed here")
    task = make_task(config.task)
    problems = list(task.problems("heldout", NUM_PROBLEMS, HELDOUT_SEED))
    try:
        checkpoint = latest_checkpoint(Path(run.directory))
        before = _search(config, engine_model(config), problems)
        after = _search(config, checkpoint, problems) if checkpoint else [None] * len(problems)
    except (ValueError, OSError, TsdError) as error:
        return Examples(left_out=str(error))
    triples = zip(problems, before, after, strict=True)
    return Examples(found=tuple(Example(problem=one.text, before=a, after=b) for one, a, b in triples))


def _search(config: Config, directory: Path | None, problems: Sequence[Problem]) -> list[TreeRecord]:
    """The model is loaded here, before there is an event loop that it could hold up."""
    task = make_task(config.task)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)
    way = replace(config.method if isinstance(config.method, Way) else IndexConfig(), max_tokens=MAX_TOKENS)
    trees = [plant(problem, task, generation.codec, config.task.style, config.search) for problem in problems]
    asyncio.run(_grow(trees, generation, way, load_calibration(directory)))
    return [record(tree, generation.codec.decode) for tree in trees]


async def _grow(trees: Sequence[Tree], generation: Generation, way: Way, calibration: Calibration) -> None:
    """One after the other: what each samples does not depend on the others' pace."""
    async with generation.engine as engine:
        for tree in trees:
            await search(tree, engine, way, calibration)
