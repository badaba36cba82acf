"""Runs side by side as tables of text, for any place that shows tables. Knows nothing about terminals and HTML.

What is not known yet is a dash.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from tsd.config import Config, kind
from tsd.report.course import FIGURES, Point
from tsd.report.run import RunReport
from tsd.solve.evaluate import Evaluation

DASH = "-"
NUM_VALIDATIONS = 20
"""The table of validations has about so many rows."""


class Table(NamedTuple):
    """A column for each run."""

    title: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """A label, and a cell for each run."""


Cell = Callable[[RunReport], str]


def tables(runs: Sequence[RunReport]) -> list[Table]:
    """All that is told of runs in words and numbers, curves left out."""
    return [
        overview(runs),
        differences(runs),
        evaluations(runs),
        validations(runs),
        learning(runs),
        throughput(runs),
        flow(runs),
    ]


def _table(title: str, runs: Sequence[RunReport], cells: dict[str, Cell]) -> Table:
    return Table(title, tuple((label, tuple(cell(run) for run in runs)) for label, cell in cells.items()))


def overview(runs: Sequence[RunReport]) -> Table:
    """What each run was, and what it took."""
    return _table(
        "runs",
        runs,
        {
            "state": lambda run: run.state,
            "method": lambda run: kind(run.config.method),
            "seed": lambda run: str(run.config.seed),
            "model": lambda run: run.config.model.path,
            "engine": lambda run: run.config.engine.kind,
            "updates": lambda run: f"{run.num_updates:,} of {run.config.train.num_updates:,}",
            "trajectories trained on": lambda run: f"{run.num_trajectories:,}",
            "tokens generated for them": lambda run: f"{run.generated_tokens:,}",
            "time trained": lambda run: _clock(run.training_seconds),
            "time in all": lambda run: _clock(run.seconds),
        },
    )


def differences(runs: Sequence[RunReport]) -> Table:
    """Settings in which the runs differ; of one run alone, those that are not the defaults."""
    own = [settings(run.config) for run in runs]
    default = settings(Config())
    if len(runs) == 1:
        changed = [(key, (value,)) for key, value in own[0].items() if value != default.get(key)]
        return Table("settings changed from the defaults", tuple(changed))
    keys = dict.fromkeys(key for one in own for key in one)
    rows = [(key, tuple(one.get(key, DASH) for one in own)) for key in keys]
    return Table("settings that differ", tuple(row for row in rows if len(set(row[1])) > 1))


def settings(config: Config) -> dict[str, str]:
    """Each as `section.key` and its value, as `--set` takes them."""
    found = dict[str, str]()
    for name, value in msgspec.to_builtins(config).items():
        inner = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: one if isinstance(one, str) else msgspec.json.encode(one).decode() for key, one in inner.items()}
    return found


def evaluations(runs: Sequence[RunReport]) -> Table:
    """Before and after, with 95% intervals."""
    counts = {found.k for run in runs for found in (run.before, run.after) if found}
    k = str(counts.pop()) if len(counts) == 1 else "k"
    return _table(
        "held-out problems, with 95% intervals",
        runs,
        {
            f"mean@{k} before": lambda run: _mean(run.before),
            f"mean@{k} after": lambda run: _mean(run.after),
            f"pass@{k}": lambda run: _change(run, "pass_at_k"),
            "legal answers": lambda run: _change(run, "format_rate"),
            "problems, samples of each": lambda run: _size(run.after or run.before),
        },
    )


def validations(runs: Sequence[RunReport]) -> Table:
    """The curve beside training, of many points some, and the best of it."""
    found = [{point.update: point for point in run.validations} for run in runs]
    updates = sorted({update for points in found for update in points})
    shown = updates[:: max(1, len(updates) // NUM_VALIDATIONS)]
    rows = [(f"update {update:,}", tuple(_point(points.get(update)) for points in found)) for update in shown]
    best = [max(run.validations, key=lambda point: point.mean, default=None) for run in runs]
    told = tuple(f"{_point(point)} at update {point.update:,}" if point else DASH for point in best)
    return Table("mean@k on validation problems, with 95% intervals", (*rows, ("best", told)) if rows else ())


def _point(point: Point | None) -> str:
    return f"{point.mean:.1%} [{point.low:.1%}, {point.high:.1%}]" if point else DASH


def _mean(found: Evaluation | None) -> str:
    return f"{found.mean_at_k:.1%} [{found.ci95[0]:.1%}, {found.ci95[1]:.1%}]" if found else DASH


def _change(run: RunReport, name: str) -> str:
    return " → ".join(DASH if found is None else f"{getattr(found, name):.1%}" for found in (run.before, run.after))


def _size(found: Evaluation | None) -> str:
    return f"{found.num_problems:,}, {found.k}" if found else DASH


def learning(runs: Sequence[RunReport]) -> Table:
    """Whether the updates were healthy: means of the first and the last few, and the worst one."""
    cells = {one["title"]: _course(name, one["form"], one["worst"]) for name, one in FIGURES.items()}
    cells["refused as stale"] = lambda run: f"{run.books.refused.get('stale', 0):,}" if run.books else DASH
    return _table("learning, from the first updates to the last", runs, cells)


def _course(name: str, form: str, worst: str) -> Cell:
    def cell(run: RunReport) -> str:
        course = run.courses.get(name)
        if course is None:
            return DASH
        shown = f"{course.start:{form}} → {course.end:{form}}"
        return f"{shown} ({worst} {getattr(course, worst):{form}})" if worst else shown

    return cell


def throughput(runs: Sequence[RunReport]) -> Table:
    """Rates, of all generators together and of the trainer."""
    return _table(
        "throughput",
        runs,
        {
            "tokens/s generated": lambda run: _number(run.speed.generated_per_s, ",.0f"),
            "simulations/s": lambda run: _number(run.speed.simulations_per_s, ",.0f"),
            "tokens/s trained, median": lambda run: _number(run.speed.trained_per_s, ",.0f"),
            "trainer waited": lambda run: _number(run.speed.waited_share, ".0%"),
            "worst loop lag, ms": lambda run: _number(run.speed.worst_lag_s, ",.0f", 1000),
        },
    )


def flow(runs: Sequence[RunReport]) -> Table:
    """What became of every trajectory, and what happened to the processes."""
    return _table(
        "flow: produced = trained + refused + in flight + lost",
        runs,
        {
            "trajectories produced": lambda run: f"{run.books.produced:,}" if run.books else DASH,
            "trained": lambda run: f"{run.books.trained:,}" if run.books else DASH,
            "refused": _refused,
            "in flight": lambda run: f"{run.books.in_flight:,}" if run.books else DASH,
            "lost with nodes": lambda run: f"{run.books.lost_with_node:,}" if run.books else DASH,
            "lost": lambda run: _number(run.num_lost, ",d"),
            "launches": lambda run: f"{run.num_launches:,}",
            "processes restarted": lambda run: f"{run.num_restarts:,}",
            "processes frozen": lambda run: f"{run.num_frozen:,}",
            "lines of metrics damaged": lambda run: f"{run.num_damaged:,}",
        },
    )


def _refused(run: RunReport) -> str:
    if run.books is None:
        return DASH
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in run.books.refused.items() if count)
    return f"{sum(run.books.refused.values()):,}" + (f" ({reasons})" if reasons else "")


def _number(value: float | None, form: str, scale: float = 1) -> str:
    return DASH if value is None else format(value * scale, form)


def _clock(seconds: float | None) -> str:
    return DASH if seconds is None else str(timedelta(seconds=round(seconds)))
