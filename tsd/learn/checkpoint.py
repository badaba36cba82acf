"""Checkpoints: directories written whole or not at all, each with the checksums of its files.

Knows nothing about what a learner puts into one.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tsd.config import TrainConfig
from tsd.errors import CheckpointError

STATE_FILE = "state.json"
CHECKSUM_FILE = "checksums.json"
WAITING, BEST = "waiting-for-validation", "best"
"""Files that mark a checkpoint, which is then not deleted: until it is validated, and as the one that did best."""
COPIED_FILE = "copied"
"""In a run directory on a node of a cluster: the `signature` of the checkpoint last copied to the launcher's machine.
Where there is no such file, checkpoints are where they belong once they are written."""
DAMAGED = ".damaged"
"""Behind the name of a checkpoint that was set aside."""


class TrainState(msgspec.Struct, frozen=True, kw_only=True):
    """Where training stands."""

    update: int = 0
    """Optimizer updates done."""
    version: int = 0
    """The last version published."""
    num_trajectories: int = 0
    """Trajectories used so far."""
    generated_tokens: int = 0
    """Generated for the trajectories used."""
    consumed: dict[str, int] = {}
    """Trajectories used or refused, by sender: the serial that comes next. What comes again is a duplicate."""
    positions: dict[str, int] = {}
    """Where each generator's stream of problems goes on."""
    num_refused: dict[str, int] = {}
    elapsed_s: float = 0.0
    num_worse: int = 0
    """Validations since the best one, as far as they were known."""
    complete: bool = False
    """Training has reached its end; what is left is evaluation."""


def reached_end(train: TrainConfig, state: TrainState) -> bool:
    """Whether the updates are done, or the time, the tokens or the patience are used up."""
    out_of_time = 0 < train.time_limit_s <= state.elapsed_s
    out_of_tokens = 0 < train.token_limit <= state.generated_tokens
    out_of_patience = 0 < train.patience <= state.num_worse
    return out_of_time or out_of_tokens or out_of_patience or state.update >= train.num_updates


def checkpoints_dir(run_dir: Path) -> Path:
    """Where a run keeps them."""
    return run_dir / "checkpoints"


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    found = sorted(path.parent for path in checkpoints_dir(run_dir).glob(f"update-*[0-9]/{STATE_FILE}"))
    return found[-1] if found else None


def signature(checkpoint: Path) -> str:
    """Tells a checkpoint from others, and from one of the same update that was written before it."""
    return f"{checkpoint.name} {(checkpoint / STATE_FILE).stat().st_mtime_ns}"


def copied(run_dir: Path) -> str | None:
    """What COPIED_FILE holds; None where there is none."""
    path = run_dir / COPIED_FILE
    return path.read_text() if path.exists() else None


def marked(run_dir: Path, mark: str) -> list[Path]:
    """The checkpoints with that mark, the oldest first."""
    return sorted(path.parent for path in checkpoints_dir(run_dir).glob(f"update-*[0-9]/{mark}"))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a few words; None where they are as they were written.

    Of one from before there were checksums nothing is known.
    """
    try:
        expected = msgspec.json.decode((checkpoint / CHECKSUM_FILE).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError):
        return f"{CHECKSUM_FILE} cannot be read"
    for name, digest in expected.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} is not as it was written"
    return None


def set_damaged_aside(run_dir: Path) -> Iterator[str]:
    """Renames the newest checkpoints as long as they are damaged, so that the newest whole one is the latest.

    Says of each what is wrong with it, and what training then goes on from.
    """
    while (newest := latest_checkpoint(run_dir)) is not None and (wrong := damage(newest)) is not None:
        newest.rename(newest.with_name(newest.name + DAMAGED))
        before = latest_checkpoint(run_dir)
        goes_on = f"training goes on from {before.name}" if before else "no other is left, training begins anew"
        yield f"checkpoint {newest.name} is damaged: {wrong}; it is set aside, and {goes_on}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def load_state(checkpoint: Path) -> TrainState:
    """Raises CheckpointError where the state cannot be read."""
    try:
        return msgspec.json.decode((checkpoint / STATE_FILE).read_bytes(), type=TrainState)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"cannot read {checkpoint / STATE_FILE}: {error}") from None


def save_checkpoint(run_dir: Path, state: TrainState, save: Callable[[Path], None], num_kept: int = 2) -> Path:
    """Calls `save` with a temporary directory, adds the state, syncs, and renames: a reader never sees half of one.

    Keeps the newest `num_kept`, those that are marked, and the marks of one that is written again. Raises
    CheckpointError, with the earlier ones untouched and nothing of this one left, where the disk refuses.
    """
    final = checkpoints_dir(run_dir) / f"update-{state.update:06d}"
    partial = final.with_suffix(".partial")
    try:
        for half in checkpoints_dir(run_dir).glob("*.partial"):  # of a trainer that was killed
            shutil.rmtree(half, ignore_errors=True)
        partial.mkdir(parents=True)
        save(partial)
        (partial / STATE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
        digests = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        (partial / CHECKSUM_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(digests), indent=2))
        _sync(partial)
        for mark in (WAITING, BEST):
            if (final / mark).exists():
                (partial / mark).touch()
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"cannot write {final}: {error}; free some space, then resume the run") from error
    prune(run_dir, num_kept)
    return final


def prune(run_dir: Path, num_kept: int) -> None:
    """Deletes checkpoints but the newest and those that are marked. Two processes may do so at once."""
    for old in sorted(checkpoints_dir(run_dir).glob("update-*[0-9]"))[:-num_kept]:
        if not (old / WAITING).exists() and not (old / BEST).exists():
            shutil.rmtree(old, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Contents to the disk, before the name that promises them."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
