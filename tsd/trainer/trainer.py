"""One trainer process: trajectories in, updates, weights out.

    startup: group of ranks, learner from the newest checkpoint, sockets (rank 0), weights published
    main loop: train       waits for the intake's batch, then learns in a thread; publishes, checkpoints
               intake      waits for generators
               serve       waits for generators that ask for a snapshot
               heartbeat   wakes every second and tells generators where it is
    shutdown: SIGTERM lets the update under way finish, then a checkpoint is written

Rank 0 alone has sockets and files; the others wait for what it broadcasts. Started by `tsd launch` as
`python -m tsd.trainer`; knows nothing about trees or engines.
"""

import argparse
import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean

import msgspec

from tsd.config import Config, load_config
from tsd.errors import CheckpointError, DivergedError
from tsd.learn.checkpoint import (
    TrainState,
    copied,
    latest_checkpoint,
    load_state,
    reached_end,
    save_checkpoint,
    signature,
)
from tsd.learn.health import warnings
from tsd.learn.learner import Alone, Group, Learner, MockLearner
from tsd.learn.rows import num_laid_out
from tsd.learn.validation import load_record, mark_for_validation
from tsd.model.files import model_path
from tsd.observe.metrics import MetricsWriter, UpdateRow, WeightsRow
from tsd.observe.tensorboard import open_tensorboard
from tsd.run.books import USED_FILE
from tsd.run.child import beat, new_life, run_child
from tsd.run.identity import identify
from tsd.search.calibration import keep_newest
from tsd.trainer.intake import Intake
from tsd.trainer.orders import Gather, Learn, Save, end, follow, give
from tsd.transport.addresses import Addresses
from tsd.transport.codec import encode
from tsd.transport.curve import trainer_context
from tsd.transport.deltas import num_bytes, num_elements
from tsd.transport.keys import load_keys
from tsd.transport.progress import Progress, ProgressPublisher
from tsd.transport.trajectories import Inbox
from tsd.transport.weights import WeightPublisher
from tsd.types import Grade, Stats, Trajectory

HEARTBEAT_S = 1.0
MAX_SKIPPED = 3
"""Updates in a row whose loss is not finite, after which training stops."""


@dataclass(slots=True)
class Trainer:
    """The parts of rank 0, wired."""

    config: Config
    run_dir: Path
    ranks: Group
    learner: Learner
    state: TrainState
    intake: Intake
    weights: WeightPublisher
    progress: ProgressPublisher
    metrics: MetricsWriter
    saved: dict[str, int] = field(default_factory=dict)
    """What was consumed, as far as a checkpoint holds it."""
    num_asked: int = 0
    """Times that generators were asked to send something again."""
    num_given: int = 0
    """Times that weights had been given out when the version now current was published."""
    given_bytes: int = 0
    """Bytes that had left with these."""
    uncopied: list[tuple[str, float, dict[str, int]]] = field(default_factory=list)
    """On a cluster: checkpoints that lie on this node alone, since when, and what was consumed."""

    async def run(self) -> None:
        """Until the updates are done, the time is up, or SIGTERM."""
        # On SIGTERM the update under way is finished, a wait for trajectories is not.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.intake.stop)
        self.saved = self.state.consumed
        await self.publish()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.intake.receive(), name="receive"),
                group.create_task(self.weights.serve(), name="serve"),
                group.create_task(self.heartbeat(), name="heartbeat"),
                group.create_task(beat(self.run_dir, "trainer-0"), name="beat"),
            ]
            await self.train()
            if 0 < self.config.train.patience <= self.state.num_worse:
                said = f"training ends: {self.state.num_worse} validations brought no new best (train.patience)"
                self.metrics.event("trainer-0", said)
            for task in tasks:
                task.cancel()
        await self.checkpoint(complete=not self.intake.stopping)
        await asyncio.to_thread(end, self.ranks)

    async def heartbeat(self) -> None:
        while True:
            if self.intake.inbox.missing:
                self.intake.inbox.missing, self.num_asked = False, self.num_asked + 1
            await self.count_copied()
            await self.tell()
            await asyncio.sleep(HEARTBEAT_S)

    async def count_copied(self) -> None:
        """On a cluster what a checkpoint holds is saved once the launcher has a copy: this node may be lost.

        Raises CheckpointError where it does not come for one.
        """
        if not self.uncopied:
            return
        newest, limit_s = await asyncio.to_thread(copied, self.run_dir), self.config.transport.timeout_s
        for number, (name, _, consumed) in enumerate(self.uncopied):
            if name == newest:
                self.saved = consumed
                del self.uncopied[: number + 1]
                return
        name, since, _ = self.uncopied[0]
        if time.monotonic() - since > limit_s:
            raise CheckpointError(f"trainer waits for the launcher to copy checkpoint {name}: not done in {limit_s} s")

    async def tell(self) -> None:
        """Where this trainer is, to every generator."""
        progress = Progress(
            life=self.weights.life,
            version=self.state.version,
            received=self.intake.inbox.received,
            used=self.intake.consumed,
            saved=self.saved,
            asked=self.num_asked,
            waiting=self.intake.waiting,
        )
        await self.progress.tell(progress)

    async def train(self) -> None:
        """The main loop: take, learn, publish."""
        train, num_skipped = self.config.train, 0
        while not self.finished() and (trajectories := await self.intake.take(self.state.version)):
            started = time.monotonic()
            await self.tell()
            stats = await asyncio.to_thread(self.learn, trajectories)
            if stats is None:
                num_skipped = self.skip(trajectories, num_skipped)
                continue
            num_skipped, seconds = 0, time.monotonic() - started
            if train.patience and (best := await asyncio.to_thread(load_record, self.run_dir)):
                self.state = msgspec.structs.replace(self.state, num_worse=best.num_worse)
            self.advance(trajectories, self.intake.wait_s + seconds)
            self.write_row(stats, trajectories, seconds)
            if self.state.update % train.publish_every == 0:
                self.state = msgspec.structs.replace(self.state, version=self.state.version + 1)
                await self.publish()
            every = (train.checkpoint_every, self.config.evaluate.every or train.checkpoint_every)
            if any(self.state.update % one == 0 for one in every) and not self.finished():
                await self.checkpoint(complete=False)

    def finished(self) -> bool:
        return self.intake.stopping or reached_end(self.config.train, self.state)

    def learn(self, trajectories: list[Trajectory]) -> Stats | None:
        """Shares the batch with the other ranks and takes this rank's part. Runs in a thread."""
        version, number = self.state.version, self.state.update
        return give(self.ranks, self.learner, Learn(version, number, tuple(trajectories)))

    async def publish(self) -> None:
        """The weights as they are, under the version of the state."""
        started = time.monotonic()
        update = await asyncio.to_thread(give, self.ranks, self.learner, Gather(self.state.version))
        gathered = time.monotonic()
        num_given, given_bytes = self.weights.num_answers - self.num_given, self.weights.sent_bytes - self.given_bytes
        self.num_given, self.given_bytes = self.weights.num_answers, self.weights.sent_bytes
        history = await self.weights.publish(update)
        newest = history.newest
        encoded = time.monotonic()
        await self.tell()
        self.metrics.write(
            WeightsRow(
                source="trainer-0",
                life=self.weights.life,
                version=update.version,
                checksum=history.checksum,
                num_bytes=newest.num_bytes,
                dense_bytes=num_bytes(update),
                is_delta=newest.base is not None,
                changed_share=None if history.num_changed is None else history.num_changed / num_elements(update),
                seconds=encoded - started,
                num_given=num_given,
                given_bytes=given_bytes,
                encode_s=encoded - gathered,
            )
        )

    def skip(self, trajectories: list[Trajectory], num_skipped: int) -> int:
        """An update that was not finite: its batch is kept for inspection; the third in a row ends training."""
        path = self.run_dir / f"not-finite-{self.state.update:06d}-{num_skipped}.msgpack"
        path.write_bytes(encode(Learn(self.state.version, self.state.update, tuple(trajectories))))
        self.intake.num_refused["not finite"] += len(trajectories)
        said = f"skipped an update whose loss is not finite; its batch is in {path}"
        self.metrics.event("trainer-0", said, is_warning=True)
        if num_skipped + 1 == MAX_SKIPPED:
            raise DivergedError(f"{MAX_SKIPPED} updates in a row were not finite; try a lower train.learning_rate")
        return num_skipped + 1

    def advance(self, trajectories: list[Trajectory], seconds: float) -> None:
        """Counts an update that was made."""
        state = self.intake.counted(self.state)
        self.state = msgspec.structs.replace(
            state,
            update=state.update + 1,
            num_trajectories=state.num_trajectories + len(trajectories),
            generated_tokens=state.generated_tokens + sum(trajectory.num_generated for trajectory in trajectories),
            elapsed_s=state.elapsed_s + seconds,
        )

    def write_row(self, stats: Stats, trajectories: list[Trajectory], seconds: float) -> None:
        state, count, inbox = self.state, len(trajectories), self.intake.inbox
        if self.config.observe.trajectories:
            with (self.run_dir / USED_FILE).open("ab") as file:
                ids = [trajectory.id for trajectory in trajectories]
                file.write(msgspec.json.encode({"update": state.update, "ids": ids}) + b"\n")
        for warning in warnings(stats):
            self.metrics.event("trainer-0", f"update {state.update}: {warning}", is_warning=True)
        ages = Counter(state.version - trajectory.version for trajectory in trajectories)
        self.metrics.write(
            UpdateRow(
                update=state.update,
                num_updates=self.config.train.num_updates,
                version=state.version,
                **msgspec.to_builtins(stats),
                reward_mean=sum(trajectory.grade.reward for trajectory in trajectories) / count,
                rewards=mean_rewards([trajectory.grade for trajectory in trajectories]),
                exact_share=sum(trajectory.grade.exact for trajectory in trajectories) / count,
                age_mean=sum(state.version - trajectory.version for trajectory in trajectories) / count,
                ages={str(age): ages[age] for age in sorted(ages)},
                num_trajectories=state.num_trajectories,
                generated_tokens=state.generated_tokens,
                num_refused=state.num_refused,
                num_dropped={
                    "duplicate": inbox.num_duplicates,
                    "early": inbox.num_early,
                    "damaged": inbox.num_damaged,
                    "other protocol": inbox.num_foreign,
                    "damaged question": self.weights.num_damaged,
                    **{f"generator of another {what}": count for what, count in self.weights.num_refused.items()},
                },
                num_tokens_laid_out=sum(map(num_laid_out, trajectories)),
                tokens_per_s=sum(len(trajectory.tokens) for trajectory in trajectories) / seconds,
                wait_s=self.intake.wait_s,
                elapsed_s=state.elapsed_s,
            )
        )

    async def checkpoint(self, *, complete: bool) -> None:
        state = msgspec.structs.replace(self.state, complete=complete)

        def save(directory: Path) -> None:
            give(self.ranks, self.learner, Save(str(directory)))
            keep_newest(self.run_dir, directory)

        path = await asyncio.to_thread(save_checkpoint, self.run_dir, state, save, self.config.train.checkpoints_kept)
        if await asyncio.to_thread(copied, self.run_dir) is None:
            self.saved = state.consumed
        else:
            self.uncopied.append((signature(path), time.monotonic(), state.consumed))
        self.metrics.event("trainer-0", f"checkpoint {path}")
        every = self.config.evaluate.every
        if every and (complete or state.update % every == 0):
            self.mark(path)
        await self.tell()

    def mark(self, checkpoint: Path) -> None:
        """For validation beside training."""
        if passed_over := mark_for_validation(self.run_dir, checkpoint):
            said = f"validation is slower than training: {passed_over.name} is passed over; raise evaluate.every"
            self.metrics.event("trainer-0", said, is_warning=True)


def mean_rewards(grades: Sequence[Grade]) -> dict[str, float]:
    """The mean of each reward that is mixed, over the grades that have it: a resumed run may mix others."""
    parts = [grade.parts for grade in grades]
    return {name: fmean(part[name] for part in parts if name in part) for name in sorted({*chain(*parts)})}


@contextmanager
def join_group(config: Config, rank: int, world: int) -> Iterator[Group]:
    """Meets the other trainers. One that trains no model is alone without torch, which takes seconds to import."""
    if world == 1 and config.engine.kind == "mock":
        yield Alone()
        return
    from tsd.learn.ranks import join_ranks

    with join_ranks(rank, world, config.transport.timeout_s) as ranks:
        yield ranks


def make_learner(config: Config, checkpoint: Path | None, ranks: Group) -> Learner:
    """Raises ValueError where the configuration names no model."""
    if config.engine.kind == "mock":
        return MockLearner(config, checkpoint, ranks)
    from tsd.learn.policy_learner import PolicyLearner, set_up_torch
    from tsd.learn.ranks import Ranks

    assert isinstance(ranks, Ranks)
    set_up_torch(config)
    return PolicyLearner(config, model_path(config.model.path), checkpoint, ranks)


async def lead(config: Config, run_dir: Path, sockets: str, ranks: Group) -> None:
    """Rank 0's whole life."""
    checkpoint = latest_checkpoint(run_dir)
    state = load_state(checkpoint) if checkpoint else TrainState()
    learner, addresses, queue = make_learner(config, checkpoint, ranks), Addresses(sockets), config.transport.queue
    with ExitStack() as stack:
        board = stack.enter_context(open_tensorboard(run_dir, config.observe, state.update))
        metrics = stack.enter_context(MetricsWriter(run_dir, board))
        event = partial(metrics.event, "trainer-0")
        context = stack.enter_context(trainer_context(load_keys(config.transport.keys, "trainer")))
        inbox = stack.enter_context(
            Inbox(
                context,
                addresses.trajectories,
                queue,
                state.consumed,
                learner.vocabulary,
                config.search.max_path_tokens,
            )
        )
        weights = stack.enter_context(
            WeightPublisher(context, addresses.snapshots, identify(run_dir, config), new_life(), event)
        )
        progress = stack.enter_context(ProgressPublisher(context, addresses.progress))
        metrics.event("trainer-0", f"trains from update {state.update}")
        intake = Intake(config, inbox, state, report=event)
        await Trainer(config, run_dir, ranks, learner, state, intake, weights, progress, metrics).run()


async def train(run_dir: Path, rank: int, world: int, sockets: str) -> None:
    """The whole life of a trainer process."""
    config = load_config(run_dir / "config.toml")
    with join_group(config, rank, world) as ranks:
        if rank == 0:
            await lead(config, run_dir, sockets, ranks)
        else:
            # Rank 0 is told to stop too, and its empty batch ends this rank.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(beat(run_dir, f"trainer-{rank}"))
                await asyncio.to_thread(follow, make_learner(config, latest_checkpoint(run_dir), ranks), ranks)
                beating.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tsd.trainer")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--sockets", required=True)
    args = parser.parse_args()
    return run_child(train(args.run_dir, args.rank, args.world, args.sockets))
