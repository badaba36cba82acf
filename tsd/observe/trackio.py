"""Numbers of a run for trackio, on this machine: a copy of what metrics.jsonl holds, for those who use it.

Off unless a setting names a project. Where its files lie is for trackio's own settings (`TRACKIO_DIR`). Knows nothing
about what the numbers mean. Imports trackio only where it is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import msgspec

from tsd.config import Config, ObserveConfig
from tsd.config.extras import check_installed
from tsd.observe.scalars import Curves


def check_trackio(config: ObserveConfig) -> None:
    """Raises ValueError where it is wanted and trackio is not installed."""
    if config.trackio:
        check_installed("observe.trackio", "trackio", "trackio")


@contextmanager
def open_trackio(config: Config, run_dir: Path) -> Iterator[Curves]:
    """A run of the project that `observe.trackio` names; a resumed one goes on where it was."""
    trackio = import_module("trackio")
    with redirect_stdout(StringIO()):  # the screen is the dashboard's
        run = trackio.init(
            project=config.observe.trackio,
            name=run_dir.name,
            resume="allow",
            config=msgspec.to_builtins(config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    try:
        yield Curves(lambda update, numbers: run.log(numbers, step=update))
    finally:
        with redirect_stdout(StringIO()):
            trackio.finish()
