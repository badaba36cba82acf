"""What a run directory holds besides checkpoints and metrics: configuration, lock, logs, summary.

    config.toml     the resolved configuration          before.json, after.json   evaluations
    metrics.jsonl   a row for everything that happened  summary.json              both, and what they cost
    checkpoints/    the newest few                      logs/                     what each process printed
    tensorboard/    the metrics once more, where asked for
    spool/          what generators finished, until a checkpoint holds it
    run-id          made with the directory: tells its processes from another run's

Starts nothing, and knows nothing about devices.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tsd.config import Config, load_config
from tsd.config.devices import Placement
from tsd.config.whole import write_whole
from tsd.learn.checkpoint import latest_checkpoint, load_state, reached_end
from tsd.learn.validation import chosen_checkpoint
from tsd.observe.metrics import MetricsReader, UpdateRow
from tsd.observe.state import RunState
from tsd.run.books import Books, balance
from tsd.run.guardian import GRACE_S, KILL_S, is_running
from tsd.run.identity import name_run

CONFIG_FILE = "config.toml"
SUMMARY_FILE = "summary.json"
LOCK_FILE = ".lock"
WANTED_FILE = "wanted"
"""Holds how many generators are wanted, where `tsd scale` has changed that."""
LOCK_WAIT_S = GRACE_S + KILL_S + 5.0
LOCK_POLL_S = 0.1


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What summary.json holds."""

    before: dict[str, Any]
    after: dict[str, Any]
    num_updates: int
    num_trajectories: int
    generated_tokens: int
    training_seconds: float
    """Time of the updates, the waits for their trajectories included."""
    seconds: float
    """Time of all launches of this run, evaluations included."""
    model: str
    """The trained model: a Hugging Face directory."""
    books: Books | None
    """What became of every trajectory; None where there is no checkpoint."""

    def __str__(self) -> str:
        before, after = (f"{result['mean_at_k']:.1%}" for result in (self.before, self.after))
        return f"mean@{self.after['k']} {before} before, {after} after {self.num_updates} updates"

    def describe(self) -> str:
        """What came of the run, how long each part took, and where the model lies."""
        return "\n".join(
            (
                f"before    {_result(self.before)}",
                f"after     {_result(self.after)}",
                f"training  {self.num_updates} updates, {self.generated_tokens:,} tokens generated, "
                f"{self.training_seconds:.1f} s",
                f"in all    {self.seconds:.1f} s, with the starts of processes",
                f"books     {self.books.describe() if self.books else 'none'}",
                f"model     {self.model}",
            )
        )


def _result(evaluation: dict[str, Any]) -> str:
    low, high = evaluation["ci95"]
    mean = f"mean@{evaluation['k']} {evaluation['mean_at_k']:.1%}"
    return f"{mean}, 95% interval {low:.1%} to {high:.1%}, {evaluation['seconds']:.1f} s"


def create(run_dir: Path) -> None:
    """Makes the directory of a new run, for this user alone, and its id.

    Raises ValueError where something is already there.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        run_dir.chmod(0o700)
        used = any(run_dir.iterdir())
    except OSError as error:
        raise ValueError(f"cannot use {run_dir} as a run directory: {error}") from None
    if used:
        raise ValueError(
            f"{run_dir} is not empty; continue that run with --resume {run_dir}, or name another --run-dir"
        )
    name_run(run_dir)


def check_run(run_dir: Path, named: str) -> None:
    """Raises ValueError, with how the user named it, where there is no run."""
    if not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"{named}: no {CONFIG_FILE} there, so it is not a run directory; see ls runs")


@contextmanager
def locked(run_dir: Path) -> Iterator[int]:
    """The run's lock, as an open file. Waits where a killed launcher's processes are still being ended.

    Raises ValueError where a living launcher has it.
    """
    lock = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _acquire(lock, run_dir)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def is_locked(run_dir: Path) -> bool:
    """Whether a launcher, or what is left of its processes, has the run."""
    try:
        lock = os.open(run_dir / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _acquire(lock: int, run_dir: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode()
        if holder.isdigit() and is_running(int(holder)):
            raise ValueError(f"{run_dir} is in use by another tsd launch, process {holder}")
        if time.monotonic() > deadline:
            raise ValueError(f"{run_dir}: the processes of its last launch are still ending; try again in a moment")
        time.sleep(LOCK_POLL_S)


def num_wanted(run_dir: Path, placement: Placement) -> int:
    """How many generators there should be: as `tsd scale` wants it, or the launch where that was not asked."""
    try:
        return int((run_dir / WANTED_FILE).read_text())
    except FileNotFoundError:
        return len(placement.gen)


def want(run_dir: Path, num_generators: int) -> None:
    """Asks a run under way on a cluster for so many generators. Raises ValueError where there is none."""
    check_run(run_dir, str(run_dir))
    if not load_config(run_dir / CONFIG_FILE).cluster:
        raise ValueError(f"{run_dir} runs on one machine, whose devices are fixed; launch with --cluster to scale")
    if not is_locked(run_dir):
        raise ValueError(f"{run_dir} is not running; tsd launch --resume {run_dir} --gpus says how many it begins with")
    write_whole(run_dir / WANTED_FILE, b"%d" % num_generators)


def is_trained(run_dir: Path, config: Config) -> bool:
    """Whether training has reached the end that the configuration, perhaps changed since, sets it."""
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        return False
    state = load_state(checkpoint)
    return state.complete and reached_end(config.train, state)


def lost_work(run_dir: Path) -> Iterator[str]:
    """A line where a run made updates and has no checkpoint of them: it begins anew.

    Raises ValueError where it had come to its end: then somebody has removed them.
    """
    if latest_checkpoint(run_dir) is not None:
        return
    rows = MetricsReader(run_dir).read()
    count = max((row.update for row in rows if isinstance(row, UpdateRow)), default=0)
    if count and (run_dir / SUMMARY_FILE).exists():
        raise ValueError(
            f"{run_dir} made {count} updates, and its checkpoints are gone: put them back, or start a new run"
        )
    if count:
        yield f"{run_dir} made {count} updates and has no checkpoint: training begins anew from its start"


def summarise(run_dir: Path, keep_best: bool) -> Summary:
    """Writes and returns summary.json, from the two evaluations and the metrics."""
    state = RunState()
    for row in MetricsReader(run_dir).read():
        state.absorb(row)
    last, checkpoint = state.update, latest_checkpoint(run_dir)
    summary = Summary(
        before=msgspec.json.decode((run_dir / "before.json").read_bytes(), type=dict[str, Any]),
        after=msgspec.json.decode((run_dir / "after.json").read_bytes(), type=dict[str, Any]),
        num_updates=last.update if last else 0,
        num_trajectories=last.num_trajectories if last else 0,
        generated_tokens=last.generated_tokens if last else 0,
        training_seconds=round(last.elapsed_s, 2) if last else 0.0,
        seconds=round(state.elapsed_s, 2),
        model=str(chosen_checkpoint(run_dir, keep_best)),
        books=balance(run_dir, load_state(checkpoint)) if checkpoint else None,
    )
    write_whole(run_dir / SUMMARY_FILE, msgspec.json.format(msgspec.json.encode(summary), indent=2))
    return summary
