"""Which split a problem belongs to: a hash of what makes it that problem says, so that splits share none.

Knows nothing about what problems are.
"""

import hashlib
from collections.abc import Mapping
from itertools import islice

from tsd.types import Problem, Split, Task

HELDOUT_SEED = 0
"""The held-out set is one set, whatever a run's seed, and so is the validation set."""

SPLIT_PERCENT: dict[Split, range] = {"train": range(90), "heldout": range(90, 95), "validation": range(95, 100)}


def in_split(key: str, split: Split) -> bool:
    """Whether the problem is the split's; equal problems need equal keys."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 in SPLIT_PERCENT[split]


def first_problems(task: Task, split: Split, count: int, seed: int) -> list[Problem]:
    """At most `count`, training problems in a run's own order. Raises ValueError where there are none."""
    found = list(islice(task.problems(split, count, seed if split == "train" else HELDOUT_SEED), count))
    if not found:
        raise ValueError(f"task {task.name} has no {split} problems; it needs more")
    return found


def check_splits(task: Task, sizes: Mapping[Split, int], seed: int) -> None:
    """Raises ValueError where a training problem is one of another split too."""
    train = {problem.text for problem in first_problems(task, "train", sizes["train"], seed)}
    for split, count in sizes.items():
        found = [problem.text for problem in first_problems(task, split, count, seed)] if split != "train" else []
        if both := [text for text in found if text in train]:
            raise ValueError(
                f"task {task.name}: {len(both):,} of {len(found):,} {split} problems are training problems too, such "
                f"as {both[0][:100]}; tsd.tasks.splits.in_split keeps them apart"
            )
