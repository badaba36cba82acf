"""Which split a problem belongs to: a hash of what makes it that problem says, so that splits share none; and which
problems of each a run takes.

Knows nothing about what problems are.
"""

import hashlib
from collections.abc import Sequence
from itertools import islice

from tsd.config import Config
from tsd.types import Problem, Split, Task

HELDOUT_SEED = 0
"""The held-out set is one set, whatever a run's seed, and so is the validation set."""
SPLIT_PERCENT: dict[Split, range] = {"train": range(90), "heldout": range(90, 95), "validation": range(95, 100)}


def in_split(key: str, split: Split) -> bool:
    """Whether the problem is the split's; equal problems need equal keys."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 in SPLIT_PERCENT[split]


def problems_of_run(task: Task, split: Split, config: Config) -> list[Problem]:
    """Those of a split that a run takes, in the task's order. Raises ValueError where there are none."""
    match split:
        case "train":
            count, seed = config.task.num_train, config.seed
        case "validation":
            count, seed = config.evaluate.validation_problems, HELDOUT_SEED
        case "heldout":
            count, seed = config.evaluate.num_problems, HELDOUT_SEED
    found = list(islice(task.problems(split, count, seed), count))
    if not found:
        raise ValueError(f"task {task.name} has no {split} problems; it needs more")
    return found


def check_splits(task: Task, splits: Sequence[Split], config: Config) -> dict[Split, list[Problem]]:
    """A run's training problems, and those of the splits. Raises ValueError where one is in training and in another."""
    asked: tuple[Split, ...] = ("train", *splits)
    drawn = {split: problems_of_run(task, split, config) for split in asked}
    train = {problem.text for problem in drawn["train"]}
    for split in splits:
        found = [problem.text for problem in drawn[split]]
        if both := [text for text in found if text in train]:
            raise ValueError(
                f"task {task.name}: {len(both):,} of {len(found):,} {split} problems are training problems too, such "
                f"as {both[0][:100]}; tsd.tasks.splits.in_split keeps them apart"
            )
    return drawn
