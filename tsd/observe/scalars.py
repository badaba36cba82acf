"""The plain numbers of a row, by name: what tools beside tsd draw curves of. Knows none of those tools."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msgspec.structs import asdict

from tsd.observe.metrics import EvaluationRow, MetricsRow, UpdateRow

AXES = ("time_s", "update")
"""Fields of an update that are no curves: every point carries them, as its wall time and its step."""
EVALUATED = ("mean_at_k", "ci95")
PLACES = {"ratio_quantiles": ("0.01", "0.5", "0.99"), "ci95": ("low", "high")}
"""What the places of a list are called; those of others go by number."""


@dataclass(slots=True)
class Curves:
    """Takes rows: updates, and evaluations once they are done; other rows are left out."""

    log: Callable[[int, dict[str, float]], None]
    """Gets the update and its numbers."""
    update: int = 0
    """Where the run is: an evaluation that names no update stands there."""

    def write(self, row: MetricsRow) -> None:
        if isinstance(row, UpdateRow):
            self.update = row.update
        update = row.update if isinstance(row, EvaluationRow) and row.update is not None else self.update
        if numbers := scalars(row):
            self.log(update, numbers)


def scalars(row: MetricsRow) -> dict[str, float]:
    """The numbers of a row by tag. Tables and lists become `name/key`, what is None is left out."""
    match row:
        case UpdateRow():
            return _flat((name, value) for name, value in asdict(row).items() if name not in AXES)
        case EvaluationRow() if row.num_done == row.num_problems:
            about = "validation" if row.when == "during" else "evaluation"
            return _flat((f"{about}/{name}", getattr(row, name)) for name in EVALUATED)
        case _:
            return {}


def _flat(fields: Iterable[tuple[str, object]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in fields:
        if isinstance(value, tuple | list):
            named = PLACES.get(name.rpartition("/")[2], ())
            places = named if len(named) == len(value) else range(len(value))
            value = {str(place): one for place, one in zip(places, value, strict=True)}
        items = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{name}/{key}".removesuffix("/"): one for key, one in items if isinstance(one, int | float)}
    return found
