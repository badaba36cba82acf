"""A run directory as figures: what it was, what it came to, how healthy it was, how fast, and where everything went.

Reads files and changes none, so a run may be going on. Knows nothing about how figures are shown.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tsd.config import Config, load_config
from tsd.doctor.audit import num_restarts
from tsd.learn.checkpoint import latest_checkpoint, load_state
from tsd.observe.metrics import EventRow, MetricsReader, MetricsRow, PhaseRow, ProcessRow
from tsd.observe.state import ENDED, RunState
from tsd.report.course import Course, Curves, Point, Speed, courses, curves, speed, validations
from tsd.run.books import Books, balance
from tsd.run.rundir import CONFIG_FILE, check_run, is_locked
from tsd.solve.evaluate import Evaluation


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run. What is not known yet is None."""

    name: str
    directory: str
    state: str
    """A phase while the launcher lives; `done`, `failed`, `stopped`; `killed` where it went without a word."""
    config: Config
    num_updates: int
    num_trajectories: int
    generated_tokens: int
    """For the trajectories trained on."""
    training_seconds: float | None
    """Time of the updates, the waits for their trajectories included."""
    seconds: float
    """Time of all launches, up to the last row of the metrics."""
    before: Evaluation | None
    after: Evaluation | None
    validations: tuple[Point, ...]
    """Evaluations beside training, on validation problems."""
    courses: dict[str, Course]
    """How figures of the updates went, by the name they have in metrics.jsonl."""
    speed: Speed
    books: Books | None
    """As of the last checkpoint; None before the first."""
    num_lost: int | None
    """What the books do not explain."""
    num_launches: int
    num_restarts: int
    """Times that the launcher started a generator or trainer again."""
    num_frozen: int
    """Processes that the launcher killed because they stood still."""
    num_damaged: int
    """Lines of metrics.jsonl that cannot be read."""
    flagged: tuple[str, ...]
    """What the run found wrong with itself, each once, with how often and its last wording."""
    curves: Curves


def read_runs(directories: Sequence[Path]) -> tuple[RunReport, ...]:
    """In the order given. Raises ValueError naming the first that is no run, or holds a file that is none of ours."""
    names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    return tuple(read_run(directory, name) for directory, name in zip(directories, names, strict=True))


def read_run(run_dir: Path, name: str) -> RunReport:
    """Raises ValueError where there is no run, or a file of it cannot be read."""
    check_run(run_dir, str(run_dir))
    config, reader, state = load_config(run_dir / CONFIG_FILE), MetricsReader(run_dir), RunState()
    rows = reader.read()
    for row in rows:
        state.absorb(row)
    last, books = state.update, _books(run_dir)
    return RunReport(
        name=name,
        directory=str(run_dir),
        state=_state(run_dir, state),
        config=config,
        num_updates=last.update if last else 0,
        num_trajectories=last.num_trajectories if last else 0,
        generated_tokens=last.generated_tokens if last else 0,
        training_seconds=last.elapsed_s if last else None,
        seconds=state.elapsed_s,
        before=_evaluation(run_dir / "before.json"),
        after=_evaluation(run_dir / "after.json"),
        validations=validations(state.validations, state.updates),
        courses=courses(state.updates),
        speed=speed(rows, state.updates),
        books=books,
        num_lost=books.lost if books else None,
        num_launches=sum(isinstance(row, PhaseRow) and row.phase == "launched" for row in rows),
        num_restarts=num_restarts(rows),
        num_frozen=sum(isinstance(row, ProcessRow) and row.what == "frozen" for row in rows),
        num_damaged=reader.num_damaged,
        flagged=flagged(rows),
        curves=curves(state.updates),
    )


def _state(run_dir: Path, state: RunState) -> str:
    if state.phase in ENDED or is_locked(run_dir):
        return state.phase
    return "stopped" if state.phase == "stopping" else "killed"


def _evaluation(path: Path) -> Evaluation | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evaluation)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no evaluation that `tsd launch` wrote: {error}") from None


def _books(run_dir: Path) -> Books | None:
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        return None
    state = load_state(checkpoint)
    try:
        return balance(run_dir, state)
    except FileNotFoundError:  # a living generator removes what a checkpoint holds, between our look and our reading
        return None


def flagged(rows: Sequence[MetricsRow]) -> tuple[str, ...]:
    """The last warning of each kind, with a count; those of a kind differ in numbers alone."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if (isinstance(row, EventRow) and row.is_warning) or (isinstance(row, PhaseRow) and row.phase == "failed"):
            found.setdefault(re.sub(r"\d[\d.e+-]*", "#", row.text), []).append(row.text)
    return tuple(
        f"{texts[-1]} ({len(texts):,} times; this was the last)" if texts[1:] else texts[0] for texts in found.values()
    )
