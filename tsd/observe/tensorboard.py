"""Numbers of a run for TensorBoard, in RUN_DIR/tensorboard: a copy of what metrics.jsonl holds, for those who use it.

Knows nothing about what the numbers mean. Imports TensorBoard, and torch with it, only where it is asked for.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from tsd.config import ObserveConfig
from tsd.config.extras import check_installed
from tsd.observe.metrics import MetricsRow, UpdateRow
from tsd.observe.scalars import scalars

FOLDER = "tensorboard"
FLUSH_S = 10


def check_tensorboard(config: ObserveConfig) -> None:
    """Raises ValueError where TensorBoard is wanted and not installed."""
    if config.tensorboard:
        check_installed("observe.tensorboard", "tensorboard", "tensorboard", called="TensorBoard")


def open_tensorboard(
    run_dir: Path, config: ObserveConfig, update: int, *, hides: bool = True
) -> "AbstractContextManager[TensorBoard | None]":
    """What a process writes through, where it is wanted; the run has come to `update`."""
    return TensorBoard(run_dir, update, hides) if config.tensorboard else nullcontext()


class TensorBoard:
    """Takes rows. An evaluation stands where the run is; one that `hides` hides what was drawn past that."""

    def __init__(self, run_dir: Path, update: int, hides: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._update = update
        self._writer = SummaryWriter(
            str(run_dir / FOLDER), purge_step=update + 1 if hides else None, flush_secs=FLUSH_S
        )

    def write(self, row: MetricsRow) -> None:
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
