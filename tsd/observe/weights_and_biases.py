"""Numbers of a run for Weights & Biases: a copy of what metrics.jsonl holds, for those who use it.

Off unless a setting names a project. What of it leaves the machine, its own settings say (`WANDB_MODE=offline`). Knows
nothing about what the numbers mean. Imports wandb only where it is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from tsd.config import Config, ObserveConfig
from tsd.config.extras import check_installed
from tsd.observe.scalars import Curves

INIT_TIMEOUT_S = 60.0


def check_wandb(config: ObserveConfig) -> None:
    """Raises ValueError where it is wanted and wandb is not installed."""
    if config.wandb:
        check_installed("observe.wandb", "wandb", "wandb")


@contextmanager
def open_wandb(config: Config, run_dir: Path, run_id: str, wandb: Any = None) -> Iterator[Curves]:
    """A run of the project that `observe.wandb` names; a resumed one goes on where it was.

    Every curve is drawn over `update`, so that updates made again after a resume stand where they belong. Raises
    ValueError, with wandb's own words, where it cannot begin.
    """
    wandb = wandb or import_module("wandb")
    try:
        run = wandb.init(
            project=config.observe.wandb,
            id=run_id,
            name=run_dir.name,
            dir=str(run_dir),
            resume="allow",
            config=msgspec.to_builtins(config),
            settings=wandb.Settings(init_timeout=INIT_TIMEOUT_S, silent=True, console="off", save_code=False),
        )
    except wandb.Error as error:
        raise ValueError(
            f"observe.wandb: {' '.join(str(error).split())}; set WANDB_MODE=offline to keep it here"
        ) from None
    try:
        run.define_metric("*", step_metric="update")
        yield Curves(lambda update, numbers: run.log({"update": update, **numbers}))
    finally:
        run.finish()
