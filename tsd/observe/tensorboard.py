"""Numbers of a run for TensorBoard, in RUN_DIR/tensorboard: a copy of what metrics.jsonl holds, for those who use it.

Knows nothing about what the numbers mean. Imports TensorBoard, and torch with it, only where it is asked for.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import asdict

from tsd.config import ObserveConfig
from tsd.observe.metrics import EvaluationRow, Row, UpdateRow

FOLDER = "tensorboard"
AXES = ("time_s", "update")
"""Of an update these are no curves: every point carries them, as its wall time and its step."""
EVALUATED = ("mean_at_k", "ci95")
PLACES = {"ratio_quantiles": ("0.01", "0.5", "0.99"), "ci95": ("low", "high")}
"""What the places of a list are called; those of others go by number."""
FLUSH_S = 10


def check_tensorboard(config: ObserveConfig) -> None:
    """Raises ValueError where TensorBoard is wanted and not installed."""
    if config.tensorboard and find_spec("tensorboard") is None:
        raise ValueError("observe.tensorboard: TensorBoard is not installed; run pip install 'tsd[tensorboard]'")


def open_tensorboard(run_dir: Path, config: ObserveConfig, update: int) -> "AbstractContextManager[TensorBoard | None]":
    """What a process writes through, where it is wanted; the run has come to `update`."""
    return TensorBoard(run_dir, update) if config.tensorboard else nullcontext()


class TensorBoard:
    """Takes rows. An evaluation stands where the run is; curves that an earlier process drew past that are hidden."""

    def __init__(self, run_dir: Path, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._update = update
        self._writer = SummaryWriter(str(run_dir / FOLDER), purge_step=update + 1, flush_secs=FLUSH_S)

    def write(self, row: Row) -> None:
        """Updates, and evaluations once they are done; other rows are left out."""
        step = row.update if isinstance(row, UpdateRow) else self._update
        for name, number in scalars(row).items():
            self._writer.add_scalar(name, number, step, row.time_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row by tag. Tables and lists become `name/key`, what is None is left out."""
    match row:
        case UpdateRow():
            return _flat((name, value) for name, value in asdict(row).items() if name not in AXES)
        case EvaluationRow() if row.num_done == row.num_problems:
            return _flat((f"evaluation/{name}", getattr(row, name)) for name in EVALUATED)
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
