"""Rows of a run as curves, and as where each curve began, went and ended. Knows nothing about files or pictures."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median

from msgspec import Struct
from msgspec.inspect import Metadata, StructType, type_info

from tsd.observe.metrics import EvaluationRow, GeneratorRow, MetricsRow, UpdateRow
from tsd.types import Stats

_ROW = type_info(UpdateRow)
assert isinstance(_ROW, StructType)
FIGURES: dict[str, dict[str, str]] = {
    field.name: field.type.extra
    for field in sorted(_ROW.fields, key=lambda field: field.name in Stats.__struct_fields__)
    if isinstance(field.type, Metadata) and field.type.extra
}
"""The fields of UpdateRow that have a course and a curve, each with its `tsd.types.figure`; the batch's first."""
GENERATED = "generated_per_s"
"""The curve of tokens generated for what was trained on, by the second."""
NUM_EDGE = 10
"""Most updates that a start or an end is the mean of; where there are few, a fifth of them."""
NUM_POINTS = 120
"""Most points of a curve: where there are more updates, each is the mean of neighbours."""


class Course(Struct, frozen=True, kw_only=True):
    """How one figure went over the updates, those that are no number left out."""

    start: float
    """Mean of the first few updates."""
    end: float
    """Mean of the last few."""
    lowest: float
    highest: float


class Curves(Struct, frozen=True, kw_only=True):
    """A point for each update, or for some neighbours: what had been done by then, and the mean of each figure."""

    update: tuple[int, ...]
    generated_tokens: tuple[int, ...]
    """For the trajectories trained on, so far."""
    seconds: tuple[float, ...]
    """Trained, waits included, so far."""
    figures: dict[str, tuple[float | None, ...]]
    """By name; None where there is no number."""


class Point(Struct, frozen=True, kw_only=True):
    """An evaluation, by where training stood."""

    update: int
    generated_tokens: int
    seconds: float
    mean: float
    low: float
    high: float


class Speed(Struct, frozen=True, kw_only=True):
    """How fast, None where nothing was measured yet."""

    generated_per_s: float | None
    """Tokens, all generators together, mean over their reports."""
    simulations_per_s: float | None
    """Simulations of search, all generators together, mean over their reports."""
    trained_per_s: float | None
    """Response tokens, median over the updates, the waits left out."""
    waited_share: float | None
    """Share of the trainer's time that it waited for trajectories."""
    worst_lag_s: float | None
    """Longest that a generator's event loop was late."""


def courses(updates: Sequence[UpdateRow]) -> dict[str, Course]:
    """By name, of those figures that there are numbers for."""
    return {name: course for name in FIGURES if (course := _course(_numbers(updates, name)))}


def _course(values: Sequence[float]) -> Course | None:
    if not values:
        return None
    edge = max(1, min(NUM_EDGE, len(values) // 5))
    return Course(
        start=fmean(values[:edge]),
        end=fmean(values[-edge:]),
        lowest=min(values),
        highest=max(values),
    )


def curves(updates: Sequence[UpdateRow]) -> Curves:
    """At most NUM_POINTS points."""
    num = min(NUM_POINTS, len(updates))
    cuts = [len(updates) * i // num for i in range(num + 1)] if num else [0]
    groups = [updates[a:b] for a, b in pairwise(cuts)]
    figures = {name: tuple(_mean(_numbers(group, name)) for group in groups) for name in FIGURES}
    return Curves(
        update=tuple(group[-1].update for group in groups),
        generated_tokens=tuple(group[-1].generated_tokens for group in groups),
        seconds=tuple(group[-1].elapsed_s for group in groups),
        figures={**figures, GENERATED: _rates([group[-1] for group in groups])},
    )


def _rates(ends: Sequence[UpdateRow]) -> tuple[float | None, ...]:
    """Tokens by the second since the point before; of the first since the start."""
    so_far = [(0, 0.0), *((row.generated_tokens, row.elapsed_s) for row in ends)]
    return tuple((b[0] - a[0]) / (b[1] - a[1]) if b[1] > a[1] else None for a, b in pairwise(so_far))


def validations(rows: Sequence[EvaluationRow], updates: Sequence[UpdateRow]) -> tuple[Point, ...]:
    """The curve of evaluations beside training, of those updates that stand."""
    made = {row.update: row for row in updates}
    return tuple(
        Point(
            update=at.update,
            generated_tokens=at.generated_tokens,
            seconds=at.elapsed_s,
            mean=row.mean_at_k,
            low=row.ci95[0],
            high=row.ci95[1],
        )
        for row in rows
        if row.update is not None and (at := made.get(row.update))
    )


def speed(rows: Sequence[MetricsRow], updates: Sequence[UpdateRow]) -> Speed:
    """From all rows, and the updates among them that stand."""
    reports = [row for row in rows if isinstance(row, GeneratorRow)]
    elapsed = updates[-1].elapsed_s if updates else 0.0
    return Speed(
        generated_per_s=_together([(row.generator, row.tokens_per_s) for row in reports]),
        simulations_per_s=_together([(row.generator, row.simulations_per_s) for row in reports]),
        trained_per_s=median(row.tokens_per_s for row in updates) if updates else None,
        waited_share=sum(row.wait_s for row in updates) / elapsed if elapsed else None,
        worst_lag_s=max((row.loop_lag_s for row in reports), default=None),
    )


def _together(rates: Sequence[tuple[int, float]]) -> float | None:
    """Sum over the generators of each one's mean."""
    by_generator: dict[int, list[float]] = {}
    for generator, rate in rates:
        by_generator.setdefault(generator, []).append(rate)
    return sum(map(fmean, by_generator.values())) if by_generator else None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _numbers(updates: Sequence[UpdateRow], name: str) -> list[float]:
    found = [getattr(row, name) for row in updates]
    return [value for value in found if value is not None and math.isfinite(value)]
