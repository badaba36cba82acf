"""Whether a trajectory that came in is one that an engine and a search can have made. Knows nothing about sockets."""

import numpy as np

from tsd.errors import FrameError
from tsd.types import NO_PARENT, Trajectory

MAX_LOGPROB = 1e-3
"""Rounding may lift the logprob of a certain token a little above 0."""
MAX_COUNT = 2**31
"""Largest count of problems or tokens; a run comes to no more."""
MAX_PARTS, MAX_NAME = 64, 100
"""Rewards mixed into one, and the characters of each one's name."""
FIELDS: tuple[tuple[str, type[np.generic], str], ...] = (
    ("prompt", np.int32, "prompt"),
    ("tokens", np.int32, "tokens"),
    ("logprobs", np.float32, "tokens"),
    ("values", np.float32, "tokens"),
    ("versions", np.int32, "tokens"),
    ("lengths", np.int32, "lengths"),
    ("parents", np.int32, "lengths"),
    ("visits", np.int32, "lengths"),
    ("q", np.float32, "lengths"),
)
"""Each array of a trajectory: its type, and what it is as long as."""


def validate(trajectory: Trajectory, vocabulary: int | None = None, longest: int | None = None) -> None:
    """Raises FrameError where a trajectory's arrays do not fit together or hold what no engine gives.

    `vocabulary` is how many token ids the model has, where there is one; `longest` the most tokens of a path.
    """
    _check_shapes(trajectory)
    _check_numbers(trajectory, vocabulary)
    if longest is not None and (found := _longest(trajectory)) > longest + 1:  # a path at its limit may end by one more
        raise FrameError(f"trajectory {trajectory.id}: a path of {found} tokens, of which a run takes {longest}")


def _check_shapes(trajectory: Trajectory) -> None:
    for name, kind, like in FIELDS:
        array = getattr(trajectory, name)
        if array.dtype != kind:
            raise FrameError(f"trajectory {trajectory.id}: expected {name} as {kind.__name__}, found {array.dtype}")
        count = len(getattr(trajectory, like))
        if len(array) != count:
            of = "tokens" if like == "tokens" else "steps"
            raise FrameError(f"trajectory {trajectory.id}: {len(array)} {name} for {count} {of}")
    if (trajectory.lengths < 1).any() or trajectory.lengths.sum() != len(trajectory.tokens):
        raise FrameError(f"trajectory {trajectory.id}: its steps have other tokens than it has")
    if (trajectory.parents < NO_PARENT).any() or (trajectory.parents >= np.arange(len(trajectory.parents))).any():
        raise FrameError(f"trajectory {trajectory.id}: a step follows one that does not come before it")
    if not len(trajectory.prompt) or not len(trajectory.tokens):
        raise FrameError(f"trajectory {trajectory.id}: no prompt or no tokens")


def _check_numbers(trajectory: Trajectory, vocabulary: int | None) -> None:
    counts, parts = (trajectory.generator, trajectory.position, trajectory.num_generated), trajectory.grade.parts
    if not all(0 <= count < MAX_COUNT for count in counts):
        raise FrameError(f"trajectory {trajectory.id}: its place or its cost is no such number: {counts}")
    if len(parts) > MAX_PARTS or any(len(name) > MAX_NAME for name in parts):
        raise FrameError(f"trajectory {trajectory.id}: more than {MAX_PARTS} rewards, or one with an endless name")
    if min(trajectory.prompt.min(), trajectory.tokens.min(), trajectory.visits.min()) < 0:
        raise FrameError(f"trajectory {trajectory.id}: a token id or count is negative")
    largest = max(trajectory.prompt.max(), trajectory.tokens.max())
    if vocabulary is not None and largest >= vocabulary:
        raise FrameError(f"trajectory {trajectory.id}: token {largest}, but the model has {vocabulary}")
    floats = (trajectory.logprobs, trajectory.values, trajectory.q)
    rewards = [trajectory.grade.reward, *parts.values()]
    if not all(np.isfinite(array).all() for array in (*floats, rewards)):
        raise FrameError(f"trajectory {trajectory.id}: a logprob, value, Q or reward is not finite")
    if max(map(abs, rewards)) > 1:
        raise FrameError(f"trajectory {trajectory.id}: a reward is not from -1 to 1")
    if trajectory.logprobs.max() > MAX_LOGPROB:
        raise FrameError(f"trajectory {trajectory.id}: a logprob of {trajectory.logprobs.max():.3g} is above 0")


def _longest(trajectory: Trajectory) -> int:
    """Tokens of the longest path. Steps come after those that they follow."""
    ends = list[int]()
    for length, parent in zip(trajectory.lengths.tolist(), trajectory.parents.tolist(), strict=True):
        ends.append(length if parent == NO_PARENT else length + ends[parent])
    return max(ends)
