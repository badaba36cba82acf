"""One generator process: problems in, trajectories out, new weights in between.

    startup: engine, sockets, what earlier lives left in the spool, the trainer's current weights
    main loop: T tree workers            wait for the engine, then for room among what is out
               outbox                    waits for finished trees, and for the trainer to take them
               follow_trainer            waits for the trainer to say where it is
               write_rows                wakes every few seconds
    shutdown: SIGTERM cancels `generate`; tasks, engine and sockets close on the way out

Started by `tsd launch` as `python -m tsd.generator`; knows nothing about the other processes but the sockets.
"""

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tsd.config import Config, load_config
from tsd.engine import engine_model, make_engine
from tsd.generator.relaying import Relaying, open_relaying
from tsd.generator.reporter import Reporter
from tsd.learn.checkpoint import latest_checkpoint, load_state
from tsd.methods import Method, make_method
from tsd.methods.index import ByIndex
from tsd.observe.metrics import MetricsWriter, WeightsRow
from tsd.run.child import beat, new_life, run_child
from tsd.run.identity import identify
from tsd.search import Tree, plant
from tsd.search.calibration import RUNNING, Calibration, load_calibration, save_calibration
from tsd.search.chroma import open_memory
from tsd.tasks import make_task
from tsd.tasks.reward_model import RewardModel, Scored
from tsd.tasks.rewards import make_grader
from tsd.transport.addresses import Addresses
from tsd.transport.curve import generator_context
from tsd.transport.deltas import num_bytes, num_elements
from tsd.transport.keys import load_keys
from tsd.transport.progress import ProgressSubscriber
from tsd.transport.spool import SPOOL, Lane, leftovers
from tsd.transport.trajectories import Outbox
from tsd.transport.weights import WeightSubscriber
from tsd.types import Engine, Grader, Problem, Task, TextCodec

if TYPE_CHECKING:
    from tsd.generator.adapted import AdaptedModel

KEPT_PATHS = 500.0
"""What a model's calibration counts as when training begins to move it."""


@dataclass(frozen=True, slots=True)
class Generator:
    """The parts of one generator, wired."""

    index: int
    run_dir: Path
    config: Config
    task: Task
    codec: TextCodec
    engine: Engine
    method: Method
    outbox: Outbox
    progress: ProgressSubscriber
    weights: WeightSubscriber
    metrics: MetricsWriter
    reporter: Reporter
    grader: Grader | None = None
    """In place of the task's grade, where rewards are mixed."""
    reward_model: RewardModel | None = None
    adapted: "AdaptedModel | None" = None
    """Where adapters alone come over the wire."""
    relaying: Relaying | None = None
    """On a cluster alone."""

    async def run(self, problems: Iterator[tuple[int, Problem]]) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self.relaying is not None:
                await self.relaying.look()
                group.create_task(self.relaying.follow(), name="follow meeting")
                group.create_task(self.relaying.relay.serve(), name="hand weights on")
            self.outbox.heard(await self.progress.newest(self.config.transport.timeout_s))
            await self.load_weights()
            self.metrics.event(f"generator-{self.index}", f"searching, with weights {self.engine.version}")
            group.create_task(beat(self.run_dir, f"generator-{self.index}"), name="beat")
            group.create_task(self.outbox.run(), name="outbox")
            group.create_task(self.follow_trainer(), name="follow trainer")
            group.create_task(self.reporter.write_rows(), name="write rows")
            group.create_task(self.reporter.watch_loop(), name="watch loop")
            for worker in range(self.config.search.trees):
                group.create_task(self.search_trees(problems), name=f"tree worker {worker}")

    async def search_trees(self, problems: Iterator[tuple[int, Problem]]) -> None:
        """One tree after another: collect from it, send."""
        config = self.config
        for position, problem in problems:
            style, limits = config.task.style, config.search
            tree = plant(problem, self.task, self.codec, style, limits, grader=self.grader, seed=position)
            self.reporter.growing.append(tree)
            collected = await self.method.collect(tree, self._engine_for(tree, problem))
            self.reporter.growing.remove(tree)
            self.reporter.count(tree)
            self.reporter.num_waiting += 1
            group, share = f"{self.outbox.own.sender}-{position}", tree.num_generated // len(collected)
            whose = {"group": group, "problem_id": problem.id, "generator": self.index, "position": position}
            trajectories = [msgspec.structs.replace(one, num_generated=share, **whose) for one in collected]
            await self.outbox.put(trajectories, config.transport.timeout_s)
            self.reporter.num_waiting -= 1

    def _engine_for(self, tree: Tree, problem: Problem) -> Engine:
        """The engine; where there is a reward model, it has read what comes out."""
        if (model := self.reward_model) is None:
            return self.engine
        question = self.task.prompt(problem, self.config.task.style)

        async def read(responses: Sequence[Sequence[int]]) -> None:
            await model.read(problem, question, [self.codec.decode(tokens) for tokens in responses])

        return Scored(self.engine, read, len(tree.prompt))

    async def follow_trainer(self) -> None:
        """Tells the outbox where the trainer is, and applies each new version between engine steps, in mid-search.

        A trainer that was started again may give other weights the same number, or go back to an older one.
        """
        while True:
            progress = await self.progress.newest(self.config.transport.timeout_s)
            self.outbox.heard(progress)
            if (progress.life, progress.version) != (self.weights.life, self.engine.version):
                await self.load_weights()

    async def load_weights(self) -> None:
        """The trainer's current ones, or where another generator hands them on, what that one has."""
        started = time.monotonic()
        fetched = await self.weights.fetch(self.config.transport.timeout_s)
        update, is_delta = fetched.update, fetched.is_delta
        if self.relaying is not None:
            await self.relaying.relay.take(fetched)
        whole = update if self.adapted is None else await asyncio.to_thread(self.adapted.merge, update)
        pause_s = await self.engine.load(whole)
        if isinstance(self.method, ByIndex):
            path = self.run_dir / RUNNING.format(self.index)
            await asyncio.to_thread(save_calibration, self.method.calibration, path)
        self.metrics.write(
            WeightsRow(
                source=f"generator-{self.index}",
                life=fetched.life,
                version=update.version,
                checksum=fetched.checksum,
                num_bytes=fetched.num_bytes,
                dense_bytes=num_bytes(update),
                is_delta=is_delta,
                changed_share=fetched.num_changed / num_elements(update) if is_delta else None,
                seconds=time.monotonic() - started,
                wire_s=fetched.wire_s,
                decode_s=fetched.decode_s,
                pause_s=pause_s,
            )
        )


def problem_stream(
    task: Task, config: Config, index: int, num_generators: int, start: int = 0
) -> Iterator[tuple[int, Problem]]:
    """This generator's share of the training problems, again and again, each time in another order.

    Each with its place in the stream, from `start` on: where training stood, in a run that goes on. Raises ValueError
    where there is none.
    """
    problems = list(task.problems("train", config.task.num_train, config.seed))[index::num_generators]
    if not problems:
        raise ValueError(f"task {task.name} has fewer training problems than there are generators: it needs more")

    def passes() -> Iterator[Problem]:
        rng = random.Random(f"{config.seed} {index}")
        while True:
            rng.shuffle(problems)
            yield from problems

    return itertools.islice(enumerate(passes()), start, None)


def _load_faded(directory: Path | None) -> Calibration:
    """A calibration of a policy that is about to move."""
    calibration = load_calibration(directory)
    calibration.fade(KEPT_PATHS)
    return calibration


def _open_adapted(config: Config, directory: Path | None) -> "AbstractContextManager[AdaptedModel | None]":
    """What a run's adapters are merged into; None where the whole model comes over the wire."""
    if not config.train.lora_rank or directory is None:
        return nullcontext()
    from tsd.generator.adapted import AdaptedModel  # brings in torch, which takes seconds

    return AdaptedModel(directory, config.model.dtype)


async def generate(run_dir: Path, index: int, num_generators: int, sockets: str, relay: str = "") -> None:
    """The whole life of a generator, which hands weights on at the address `relay`, where there is one."""
    config = load_config(run_dir / "config.toml")
    directory = engine_model(config)
    task, addresses, spool = make_task(config.task), Addresses(sockets), run_dir / SPOOL
    spool.mkdir(exist_ok=True)
    checkpoint = latest_checkpoint(run_dir)
    start = load_state(checkpoint).positions.get(str(index), 0) if checkpoint else 0
    seed = random.Random(f"{config.seed} {index} {start}").randrange(2**20)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=seed)
    async with AsyncExitStack() as stack:
        metrics = stack.enter_context(MetricsWriter(run_dir))
        keys = load_keys(config.transport.keys, "generator")
        context = stack.enter_context(generator_context(keys))
        own, left = Lane(spool, f"{index}-{new_life()}"), leftovers(spool, index, num_generators)
        outbox = stack.enter_context(
            Outbox(context, addresses.trajectories, config.transport.queue, own, left, config.transport.credit)
        )
        progress = stack.enter_context(ProgressSubscriber(context, addresses.progress))
        hello, event = identify(run_dir, config), partial(metrics.event, f"generator-{index}")
        weights = stack.enter_context(WeightSubscriber(context, addresses.snapshots, hello, report=event))
        relaying = stack.enter_context(open_relaying(run_dir, relay, keys, hello, (outbox, progress, weights)))
        engine = await stack.enter_async_context(generation.engine)
        reward_model = await asyncio.to_thread(RewardModel, config.reward.model) if config.reward.model else None
        grader = make_grader(task, config, event, model=reward_model)
        calibration = await asyncio.to_thread(_load_faded, checkpoint or directory)
        adapted = stack.enter_context(await asyncio.to_thread(_open_adapted, config, directory))
        memory = await asyncio.to_thread(open_memory, config.search, f"generator-{index}")
        reporter = Reporter(index, run_dir, metrics, engine, outbox, generation.codec, calibration)
        parts = Generator(
            index,
            run_dir,
            config,
            task,
            generation.codec,
            engine,
            make_method(config.method, calibration, memory),
            outbox,
            progress,
            weights,
            metrics,
            reporter,
            grader,
            reward_model,
            adapted,
            relaying,
        )
        await parts.run(problem_stream(task, config, index, num_generators, start))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tsd.generator")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--num-generators", type=int, required=True)
    parser.add_argument("--sockets", required=True)
    parser.add_argument("--relay", default="", help="tcp://HOST:PORT at which weights are handed on")
    args = parser.parse_args()
    return run_child(generate(args.run_dir, args.index, args.num_generators, args.sockets, args.relay))
