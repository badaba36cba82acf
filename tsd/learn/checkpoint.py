"""Checkpoints: directories written whole or not at all. Knows nothing about what a learner puts into one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from tsd.config import TrainConfig
from tsd.errors import CheckpointError

STATE_FILE = "state.json"


class TrainState(msgspec.Struct, frozen=True, kw_only=True):
    """Where training stands."""

    update: int = 0
    """Optimizer updates done."""
    version: int = 0
    """The last version published."""
    num_trajectories: int = 0
    """Used."""
    generated_tokens: int = 0
    """Generated for the trajectories used."""
    consumed: dict[str, int] = {}
    """Trajectories used or refused, by sender: the serial that comes next. What comes again is a duplicate."""
    positions: dict[str, int] = {}
    """Where each generator's stream of problems goes on."""
    num_refused: dict[str, int] = {}
    elapsed_s: float = 0.0
    complete: bool = False
    """Training has reached its end; what is left is evaluation."""


def reached_end(train: TrainConfig, state: TrainState) -> bool:
    """Whether the updates are done, the time is up, or the tokens are."""
    out_of_time = 0 < train.time_limit_s <= state.elapsed_s
    out_of_tokens = 0 < train.token_limit <= state.generated_tokens
    return out_of_time or out_of_tokens or state.update >= train.num_updates


def checkpoints_dir(run_dir: Path) -> Path:
    """Where a run keeps them."""
    return run_dir / "checkpoints"


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    found = sorted(path.parent for path in checkpoints_dir(run_dir).glob(f"update-*/{STATE_FILE}"))
    return found[-1] if found else None


def load_state(checkpoint: Path) -> TrainState:
    """Raises CheckpointError where the state cannot be read."""
    try:
        return msgspec.json.decode((checkpoint / STATE_FILE).read_bytes(), type=TrainState)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"cannot read {checkpoint / STATE_FILE}: {error}") from None


def save_checkpoint(run_dir: Path, state: TrainState, save: Callable[[Path], None], num_kept: int = 2) -> Path:
    """Calls `save` with a temporary directory, adds the state, syncs, and renames: a reader never sees half of one.

    Keeps the newest `num_kept`. Raises CheckpointError, with the earlier ones untouched and nothing of this one left,
    where the disk refuses.
    """
    final = checkpoints_dir(run_dir) / f"update-{state.update:06d}"
    partial = final.with_suffix(".partial")
    try:
        for half in checkpoints_dir(run_dir).glob("*.partial"):  # of a trainer that was killed
            shutil.rmtree(half, ignore_errors=True)
        partial.mkdir(parents=True)
        save(partial)
        (partial / STATE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
        _sync(partial)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"cannot write {final}: {error}; free some space, then resume the run") from error
    for old in sorted(checkpoints_dir(run_dir).glob("update-*[0-9]"))[:-num_kept]:
        shutil.rmtree(old)
    return final


def _sync(directory: Path) -> None:
    """Contents to the disk, before the name that promises them."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
