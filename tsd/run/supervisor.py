"""The supervisor: takes a run through its phases, watches its processes, and leaves none behind.

    evaluate "before"  ->  trainers and generators, until the trainers are done  ->  evaluate "after"  ->  summary

    keep_trainers     waits for all trainers to end; where one dies it starts all again from the last checkpoint
    keep_crew         wakes every second and keeps as many generators as are wanted
    keep_generator    waits for its generator to end, which it should not, and starts it again; gives a device up where
                      that does not help, as long as another one is left
    keep_validating   wakes every second and has checkpoints evaluated that wait for it, on validation problems
    watch             wakes every second; a process whose event loop has stood still for long is killed, and so replaced
    board             wakes twice a second and shows the rows that all processes write

SIGINT, SIGTERM or SIGHUP cancels all of it: leaving the backend is what stops the processes, and trainers then write a
checkpoint. Knows nothing about what the processes say to each other, nor where they run (`tsd.run.backend`).
"""

import asyncio
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console

from tsd.config import Config
from tsd.config.devices import CPU, TOGETHER, Placement
from tsd.errors import ProcessError, TaskError, TsdError, leaves
from tsd.learn.checkpoint import WAITING, latest_checkpoint, marked
from tsd.observe.dashboard import Board
from tsd.observe.metrics import LAUNCHER, MetricsWriter, Phase, PhaseRow, ProcessRow, Sink
from tsd.run import rundir
from tsd.run.backend import Backend, Started
from tsd.run.child import BEATS, FAULT, HOPELESS
from tsd.run.processes import Children

STOP_GRACE_S = 14.0
"""From SIGTERM to SIGKILL: nothing of a run may be left 20 s after the launcher was told to stop."""
RESTART_DELAYS_S = (1.0, 4.0, 16.0)
GOOD_LIFE_S = 10.0
"""A generator that has searched for so long is well: its next death counts as the first."""
VALIDATION_POLL_S = 1.0
CREW_POLL_S = 1.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Befallen = Literal["restarted", "given up", "frozen", "lost"]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Stopped(TsdError):
    """Raised when a signal ended a run in order."""

    def __init__(self, run_dir: Path, number: signal.Signals) -> None:
        super().__init__(f"stopped; continue with: tsd launch --resume {run_dir}")
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Programs:
    """How each kind of process is started; tests put small scripts in their place."""

    evaluate: tuple[str, ...] = (sys.executable, "-m", "tsd.solve.evaluate")
    trainer: tuple[str, ...] = (sys.executable, "-m", "tsd.trainer")
    generator: tuple[str, ...] = (sys.executable, "-m", "tsd.generator")


PROGRAMS = Programs()


@dataclass(frozen=True)
class Run:
    """One launch, prepared: the directory and its configuration are there, and so are the devices."""

    config: Config
    placement: Placement
    directory: Path
    environ: Mapping[str, str]
    programs: Programs = PROGRAMS
    restart_delays_s: tuple[float, ...] = RESTART_DELAYS_S
    stop_grace_s: float = STOP_GRACE_S
    sinks: tuple[Sink, ...] = ()
    """Where every process's rows go too."""
    backend: "MakeBackend | None" = None
    """What starts processes; None for this machine's own."""


MakeBackend = Callable[[Run, MetricsWriter], Backend]
"""Takes the run, and where to say what befalls a process."""


async def supervise(run: Run, lock: int, console: Console) -> rundir.Summary:
    """Does what is left of a run, from its first evaluation to its summary.

    Raises ProcessError when a process fails it, Stopped after a signal; no process is left in any case.
    """
    with MetricsWriter(run.directory) as metrics:

        def lost(error: OSError) -> None:
            said = f"nobody reads the output any more ({error.strerror}): nothing is printed from here on"
            metrics.event(LAUNCHER, f"{said}; tsd watch {run.directory} shows the run")

        board = Board(run.directory, console, run.sinks, lost)
        children: Backend = Children(run.stop_grace_s, [lock], report=metrics.write)
        if run.backend is not None:
            children = run.backend(run, metrics)
        with _stopped_by_signals(run.directory, children, metrics), _first_error():
            async with asyncio.TaskGroup() as group:
                drawing = group.create_task(board.follow(), name="board")
                async with children:
                    sockets = children.sockets(run.config.transport)
                    summary = await Phases(run, children, metrics, sockets).run_all()
                drawing.cancel()
    return summary


@dataclass(frozen=True)
class Phases:
    """The phases of a run, each of which picks up where an earlier launch left off."""

    run: Run
    children: Backend
    metrics: MetricsWriter
    sockets: str
    """Where generators and trainers meet."""
    given_up: set[int] = field(default_factory=set)
    """Places of the generators that are not started again."""
    first_beats: dict[Started, float] = field(default_factory=dict)
    """When a process first beat."""

    async def run_all(self) -> rundir.Summary:
        placement, directory = self.run.placement, self.run.directory
        count = f"{len(placement.gen)} generator(s) and {len(placement.train)} trainer(s)"
        self.phase("launched", f"{count} in {directory}")
        try:
            await self.evaluate("before")
            if rundir.is_trained(directory, self.run.config):
                self.phase("trained already", "only what is missing after training is done")
            else:
                await self.train()
            await self.validate()
            await self.evaluate("after")
        except TsdError as error:
            self.phase("failed", str(error))
            raise
        summary = rundir.summarise(directory, self.run.config.train.keep_best)
        self.phase("done", f"{summary}; see {directory / rundir.SUMMARY_FILE}")
        return summary

    async def evaluate(self, when: Literal["before", "after"]) -> None:
        """On the first generator's device, unless its result is there."""
        directory, device = self.run.directory, self.run.placement.gen[0]
        if (directory / f"{when}.json").exists():
            return
        self.phase("evaluation before" if when == "before" else "evaluation after")
        argv = (*self.run.programs.evaluate, str(directory), "--when", when)
        while True:
            child = await self.spawn(f"evaluate-{when}", argv, device, self.run.config.engine.num_threads)
            code = await self.wait(child)
            if not child.is_lost:
                break
            self.tell(child.name, "lost", str(child.failure()), "evaluating again")
        if code:
            raise self.failure(child)

    async def train(self) -> None:
        """Trainers and generators together, until the trainers are done."""
        run = self.run
        # What an earlier training led to says nothing about this one.
        (run.directory / "after.json").unlink(missing_ok=True)
        self.phase("training", f"to update {run.config.train.num_updates}")
        with _first_error():
            async with asyncio.TaskGroup() as group:
                keepers = [
                    group.create_task(self.keep_crew(), name="keep crew"),
                    group.create_task(self.keep_validating(), name="keep validating"),
                ]
                await self.keep_trainers()
                for keeper in keepers:
                    keeper.cancel()
        await self.children.stop()
        if not rundir.is_trained(run.directory, run.config):
            raise ProcessError(f"the trainer was stopped before its last update; {self.how_to_continue}")

    async def keep_crew(self) -> None:
        """As many generators as are wanted, which `tsd scale` may change. Until cancelled."""
        gen, keepers = self.run.placement.gen, list[asyncio.Task[None]]()
        async with asyncio.TaskGroup() as group:
            while True:
                wanted = rundir.num_wanted(self.run.directory, self.run.placement)
                for index in range(len(keepers), wanted):
                    keeping = self.keep_generator(index, gen[index % len(gen)])
                    keepers.append(group.create_task(keeping, name=f"keep generator-{index}"))
                if leaving := [f"generator-{index}" for index in range(wanted, len(keepers))]:
                    self.metrics.event(LAUNCHER, f"{wanted} generators are wanted: {', '.join(leaving)} end")
                    for keeper in keepers[wanted:]:
                        keeper.cancel()
                    del keepers[wanted:]
                    self.given_up.intersection_update(range(wanted))
                    await self.children.stop(leaving)
                await asyncio.sleep(CREW_POLL_S)

    async def keep_validating(self) -> None:
        """Beside training, until cancelled."""
        while self.run.config.evaluate.every:
            await self.validate()
            await asyncio.sleep(VALIDATION_POLL_S)

    async def validate(self) -> None:
        """One after the other, the checkpoints that wait for it. Training goes on where that fails for no fault of the
        user's task."""
        run = self.run
        while waiting := marked(run.directory, WAITING):
            checkpoint = waiting[0]
            argv = (*run.programs.evaluate, str(run.directory), "--when", "during", "--checkpoint", str(checkpoint))
            child = await self.spawn("evaluate-during", argv, run.placement.gen[0], run.config.engine.num_threads)
            if (code := await self.wait(child)) == HOPELESS:
                raise self.failure(child)
            if code:
                self.metrics.event(LAUNCHER, f"{checkpoint.name} is not validated: {child.failure()}", is_warning=True)
                (checkpoint / WAITING).unlink(missing_ok=True)

    async def keep_trainers(self) -> None:
        """Until they have done their work. Raises ProcessError for a fault they name, or when they get nowhere."""
        delays = list(self.run.restart_delays_s)
        while True:
            before = self.checkpoint()
            failed = await self.run_trainers()
            if failed is None:
                return
            if failed.is_lost:
                then = f"trainers go on from {self.checkpoint() or 'the start'}"
                self.tell(failed.name, "lost", str(failed.failure()), then)
                continue
            if self.checkpoint() != before:
                delays = list(self.run.restart_delays_s)
            if failed.returncode == FAULT or not delays:
                raise self.failure(failed)
            delay = delays.pop(0)
            then = f"trainers go on from {self.checkpoint() or 'the start'} in {delay:g} s"
            self.tell(failed.name, "restarted", str(failed.failure()), then)
            await asyncio.sleep(delay)

    async def run_trainers(self) -> Started | None:
        """One life of all trainers together; the one that ended it badly, if one did."""
        run, world, failed = self.run, len(self.run.placement.train), list[Started]()
        meeting_point = await self.children.meeting_point() if world > 1 else {}
        argv = (*run.programs.trainer, str(run.directory), "--world", str(world))
        argv = (*argv, "--sockets", self.sockets)
        children = [
            await self.spawn(
                f"trainer-{rank}", (*argv, "--rank", str(rank)), device, run.config.train.num_threads, meeting_point
            )
            for rank, device in enumerate(run.placement.train)
        ]

        async def outlive(child: Started) -> None:
            if await self.wait(child) or child.is_lost:
                failed.append(child)
                # The others would wait for it until their deadline.
                for other in children:
                    self.children.kill_one(other)

        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(outlive(child), name=child.name)
        return failed[0] if failed else None

    async def keep_generator(self, index: int, device: str) -> None:
        """Starts a generator, and again when it dies, a few times; then goes on without it.

        Raises ProcessError when it was the last one, or when its fault would come again in any.
        """
        count = rundir.num_wanted(self.run.directory, self.run.placement)
        num_deaths, delays = 0, list(self.run.restart_delays_s)
        argv = (*self.run.programs.generator, str(self.run.directory), "--index", str(index))
        argv = (*argv, "--num-generators", str(count), "--sockets", self.sockets)
        while True:
            child = await self.spawn(f"generator-{index}", argv, device, self.run.config.engine.num_threads)
            code, first_beat = await self.wait(child), self.first_beats.pop(child, math.inf)
            if child.is_lost:
                self.tell(child.name, "lost", str(child.failure()), "starting it again where there is room")
                continue
            if code == HOPELESS:
                raise self.failure(child)
            if time.monotonic() - first_beat >= GOOD_LIFE_S:
                num_deaths, delays = 0, list(self.run.restart_delays_s)
            num_deaths += 1
            if not delays or (code == FAULT and self.children.gives_up_faults):
                break
            delay = delays.pop(0)
            self.tell(child.name, "restarted", str(child.failure()), f"starting it again in {delay:g} s")
            await asyncio.sleep(delay)
        self.given_up.add(index)
        times = f"it died {num_deaths} times" if num_deaths > 1 else "it would come again"
        if len(self.given_up) == rundir.num_wanted(self.run.directory, self.run.placement):
            raise ProcessError(f"{child.failure()}; {times}; {self.how_to_continue}")
        then = f"{times}, and device {device} is given up: the others go on"
        self.tell(child.name, "given up", str(child.failure()), then)

    async def wait(self, child: Started) -> int:
        """Waits for a child's end, which may be hours away, or ends it where it is frozen; its exit code."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch(child), name=f"watch {child.name}")
            code = await self.children.wait(child)
            watching.cancel()
        return code

    async def watch(self, child: Started) -> None:
        """Kills a child that has beaten and then stands still. Goes by what changes, not by what the clock says."""
        path, limit_s = self.run.directory / BEATS / child.name, self.run.config.transport.frozen_s
        last, changed = _changed_at(path), time.monotonic()
        beaten = False
        while not beaten or time.monotonic() - changed < limit_s:
            await asyncio.sleep(min(1.0, limit_s / 4))
            if (now := _changed_at(path)) != last:
                last, changed, beaten = now, time.monotonic(), True
                self.first_beats.setdefault(child, changed)
        cause = f"{child.name} is frozen: its event loop has not turned for {limit_s:g} s"
        self.tell(child.name, "frozen", cause, "killed")
        self.children.kill_one(child)

    def checkpoint(self) -> str | None:
        """The newest one's name."""
        newest = latest_checkpoint(self.run.directory)
        return newest.name if newest else None

    async def spawn(
        self, name: str, argv: tuple[str, ...], device: str, num_threads: int, more: Mapping[str, str] | None = None
    ) -> Started:
        """Starts a process that sees its own device alone."""
        logs = self.run.directory / "logs"
        logs.mkdir(exist_ok=True)
        env = {
            **self.children.environ(self.run.environ),
            **dict.fromkeys(THREAD_VARIABLES, str(num_threads)),
            "CUDA_VISIBLE_DEVICES": "" if device == CPU else device.replace(TOGETHER, ","),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",  # a log ends with the last thing that happened
            **(more or {}),
        }
        return await self.children.spawn(name, argv, env, logs / f"{name}.log")

    def failure(self, child: Started) -> TsdError:
        """What ends the run with that child: a fault of the user's task is named as such."""
        kind = TaskError if child.returncode == HOPELESS else ProcessError
        return kind(f"{child.failure()}; {self.how_to_continue}")

    def phase(self, phase: Phase, about: str = "") -> None:
        self.metrics.write(PhaseRow(phase=phase, about=about))

    def tell(self, process: str, what: Befallen, cause: str, then: str) -> None:
        self.metrics.write(ProcessRow(process=process, what=what, cause=cause, then=then))

    @property
    def how_to_continue(self) -> str:
        how = "continue from the last checkpoint" if self.checkpoint() else "start it again"
        return f"{how} with: tsd launch --resume {self.run.directory}"


def _changed_at(path: Path) -> int:
    """In nanoseconds of the file system's time; 0 where there is no file."""
    return path.stat().st_mtime_ns if path.exists() else 0


@contextmanager
def _stopped_by_signals(run_dir: Path, children: Backend, metrics: MetricsWriter) -> Iterator[None]:
    """The first of STOPPING cancels the current task, another one kills. Raises Stopped when all has ended.

    SIGHUP comes twice where a shell ends with its terminal, so it kills nothing; and it is nothing under nohup.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "called in a task"
    received: list[signal.Signals] = []

    def receive(number: signal.Signals) -> None:
        received.append(number)
        if len(received) > 1:
            return children.kill() if number != signal.SIGHUP else None
        about = f"on {number.name}; trainers write a checkpoint; once more to kill them"
        metrics.write(PhaseRow(phase="stopping", about=about))
        task.cancel()

    numbers = [one for one in STOPPING if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, receive, number)
    try:
        yield
    except asyncio.CancelledError:
        if not received:
            raise
        raise Stopped(run_dir, received[0]) from None
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def _first_error() -> Iterator[None]:
    """Lets the first error of a group out alone: what came after it is its consequence."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise leaves(group)[0] from None
