"""Validation during training: which checkpoints wait for it, which of them did best, and how many since did no better.

    a trainer marks a checkpoint as WAITING -> the launcher has it evaluated -> `settle` makes it BEST, or lets it go

Knows nothing about how a checkpoint is evaluated.
"""

from pathlib import Path

import msgspec

from tsd.config import TrainConfig
from tsd.config.whole import write_whole
from tsd.learn.checkpoint import BEST, WAITING, latest_checkpoint, load_state, marked, prune

RECORD_FILE = "validation.json"
MOST_WAITING = 4
"""Checkpoints, which take room on the disk."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What validation.json holds."""

    update: int
    """Update of the checkpoint that did best."""
    mean_at_k: float
    """Its own."""
    k: int
    num_problems: int
    num_worse: int = 0
    """Validations since then."""

    def __str__(self) -> str:
        return f"mean@{self.k} {self.mean_at_k:.1%} on {self.num_problems} validation problems"


def mark_for_validation(run_dir: Path, checkpoint: Path) -> Path | None:
    """Where too many wait, the one that is passed over for it: the second, since the first may be under way."""
    waiting = marked(run_dir, WAITING)
    passed_over = waiting[1] if len(waiting) >= MOST_WAITING else None
    if passed_over:
        (passed_over / WAITING).unlink(missing_ok=True)
    (checkpoint / WAITING).touch()
    return passed_over


def load_record(run_dir: Path) -> Record | None:
    """None before the first validation."""
    try:
        return msgspec.json.decode((run_dir / RECORD_FILE).read_bytes(), type=Record)
    except FileNotFoundError:
        return None


def settle(run_dir: Path, checkpoint: Path, found: Record, train: TrainConfig) -> None:
    """Takes in how a checkpoint did: it may go then, unless it did best and that is to be kept."""
    best, is_lost = load_record(run_dir), train.keep_best and not marked(run_dir, BEST)
    if best is not None and found.mean_at_k <= best.mean_at_k and not is_lost:
        found = msgspec.structs.replace(best, num_worse=best.num_worse + 1)
    elif train.keep_best:
        (checkpoint / BEST).touch()
        for other in marked(run_dir, BEST):
            if other != checkpoint:
                (other / BEST).unlink()
    write_whole(run_dir / RECORD_FILE, msgspec.json.encode(found))
    (checkpoint / WAITING).unlink(missing_ok=True)
    prune(run_dir, train.checkpoints_kept)


def chosen_checkpoint(run_dir: Path, keep_best: bool) -> Path | None:
    """What came of a run: its best checkpoint where that was kept, else its newest."""
    return next(iter(marked(run_dir, BEST) if keep_best else []), None) or latest_checkpoint(run_dir)


def why_chosen(run_dir: Path, checkpoint: Path) -> str:
    """In a few words."""
    record = load_record(run_dir)
    if record is None or not (checkpoint / BEST).exists():
        return f"the newest, after update {load_state(checkpoint).update:,}"
    return f"the best in validation, after update {record.update:,}: {record}"
