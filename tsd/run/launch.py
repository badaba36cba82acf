"""A launch, from what the command line asked for to a run under way. The one place that reads environment variables.

What cannot be is refused here, before anything starts. Knows nothing about the run's phases (`tsd.run.supervisor`), and
does not import torch: `tsd launch` answers at once.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from rich.console import Console

from tsd.config import MAIN_JOB, Config, load_config, save_config
from tsd.config.devices import Placement, bind, visible_gpus
from tsd.learn.checkpoint import set_damaged_aside
from tsd.model.files import model_path
from tsd.model.hub import SHAPE, Unreachable, fetched
from tsd.observe.metrics import Sink
from tsd.observe.printable import printable
from tsd.observe.prometheus import check_prometheus, serve_prometheus
from tsd.observe.tensorboard import check_tensorboard
from tsd.observe.trackio import check_trackio, open_trackio
from tsd.observe.weights_and_biases import check_wandb, open_wandb
from tsd.run import rundir
from tsd.run.identity import run_id
from tsd.run.plan import make_plan, render_plan
from tsd.run.supervisor import PROGRAMS, Programs, Run, supervise
from tsd.search.chroma import check_memory
from tsd.tasks import make_task
from tsd.tasks.checked import Checked
from tsd.tasks.rewards import load_rewards
from tsd.tasks.splits import check_splits, problems_of_run
from tsd.transport.keys import OTHER, load_keys

LookOver = Callable[[Config, Placement, Path], Iterable[str]]
"""Takes a configuration, who runs where, and the run's directory; gives warnings, or raises ValueError."""


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()
    gpus: str | None = None
    run_dir: Path | None = None
    resume: Path | None = None
    max_updates: int | None = None
    cluster: str | None = None

    @property
    def directory(self) -> Path:
        return self.resume or self.run_dir or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")

    def resolve(self) -> Config:
        """The configuration of the run. Raises ValueError for what cannot be."""
        if self.resume is not None:
            if self.config is not None or self.run_dir is not None:
                raise ValueError("--resume takes neither --config nor --run-dir; change its settings with --set")
            rundir.check_run(self.resume, f"--resume {self.resume}")
        path = self.config or MAIN_JOB if self.resume is None else self.resume / rundir.CONFIG_FILE
        config = load_config(path, self.overrides)
        if self.resume is not None:
            _check_same_model(load_config(path), config)
        if self.max_updates is not None:
            config = msgspec.structs.replace(
                config, train=msgspec.structs.replace(config.train, num_updates=self.max_updates)
            )
        if config.engine.kind == "null":
            raise ValueError(
                "engine.kind: null measures search alone, and there is nothing to learn; mock needs no model"
            )
        load_rewards(config)
        task = make_task(config.task)
        if isinstance(task, Checked):  # built-in ones share none
            check_splits(task, ("heldout", "validation") if config.evaluate.every else ("heldout",), config)
        elif config.evaluate.every:
            problems_of_run(task, "validation", config)  # what there is none of is said now, not in mid-training
        for check in (check_tensorboard, check_wandb, check_trackio, check_prometheus):
            check(config.observe)
        check_memory(config.search)
        for role in OTHER:
            load_keys(config.transport.keys, role)
        cluster = config.cluster if self.cluster is None else self.cluster
        config = msgspec.structs.replace(config, gpus=self.gpus or config.gpus, cluster=cluster)
        _check_cluster(config)
        return config


def _check_cluster(config: Config) -> None:
    """Raises ValueError for what does not go on a cluster."""
    if not config.cluster:
        return
    from tsd.run.cluster import check_cluster  # launches on one machine start without it

    check_cluster(config.cluster)
    if config.evaluate.every:
        raise ValueError("--cluster: evaluations beside training are for one machine so far; set evaluate.every=0")


def _check_same_model(before: Config, now: Config) -> None:
    """A run's checkpoints hold one model. Raises ValueError where a resumed run would have another."""
    for key, was, wanted in (
        ("engine.kind", before.engine.needs_model, now.engine.needs_model),
        ("model.path", before.model.path, now.model.path),
        ("train.lora_rank", before.train.lora_rank, now.train.lora_rank),
    ):
        if was != wanted:
            raise ValueError(
                f"--resume: {key} cannot change, since the run's checkpoints hold its model; start a new run"
            )


def dry_run(request: Request) -> str:
    """What `launch` would do, as text. Starts nothing, and downloads at most a config.json."""
    config = request.resolve()
    with suppress(Unreachable):  # the plan then estimates by a size in the name
        config = fetched(config, SHAPE)
    return render_plan(make_plan(config, config.placement, request.directory))


def launch(
    request: Request, console: Console, look_over: LookOver = lambda *_: (), programs: Programs = PROGRAMS
) -> rundir.Summary:
    """A whole launch. Raises ValueError, before anything starts, for what cannot be; Stopped after a signal.

    `look_over` is shown what is about to start, and may refuse it so.
    """
    config = request.resolve()
    placement, directory = config.placement, request.directory
    if placement.gpus and not config.cluster:
        placement = bind(placement, visible_gpus(os.environ))
    config = fetched(config)
    if config.engine.needs_model:
        model_path(config.model.path)
    if not config.cluster:  # of whose nodes this machine tells nothing
        _warn(console, look_over(config, placement, directory))
    os.umask(0o077)  # of all processes of the run: what they write is its user's alone
    with ExitStack() as stack:
        backend = None
        if config.cluster:
            from tsd.run.seats import on_cluster  # launches on one machine start without it

            backend = stack.enter_context(on_cluster(config, placement))
        if request.resume is None:
            rundir.create(directory)
        lock = stack.enter_context(rundir.locked(directory))
        _warn(console, set_damaged_aside(directory))
        _warn(console, rundir.lost_work(directory))
        save_config(config, directory / rundir.CONFIG_FILE)
        sinks = tuple(_sinks(config, directory, stack))
        if request.gpus:  # it says anew how many there are to be
            (directory / rundir.WANTED_FILE).unlink(missing_ok=True)
        run = Run(config, placement, directory, dict(os.environ), programs, sinks=sinks, backend=backend)
        return asyncio.run(supervise(run, lock, console))


def _warn(console: Console, warnings: Iterable[str]) -> None:
    for warning in warnings:
        console.print(f"warning: {printable(warning)}", markup=False, highlight=False, soft_wrap=True)


def _sinks(config: Config, run_dir: Path, stack: ExitStack) -> Iterator[Sink]:
    """Where the run's numbers go beside its own file, until the stack is left."""
    if config.observe.prometheus_port:
        yield stack.enter_context(serve_prometheus(config.observe.prometheus_port))
    if config.observe.wandb:
        yield stack.enter_context(open_wandb(config, run_dir, run_id(run_dir)))
    if config.observe.trackio:
        yield stack.enter_context(open_trackio(config, run_dir))
