"""Trajectories that are tries of random tokens."""

import random
from typing import Any

import numpy as np

from tests.support.trajectories import make_trajectory
from tsd.types import NO_PARENT, Trajectory


def trajectory(
    parents: list[int], lengths: list[int] | None = None, seed: int = 0, q: list[float] | None = None
) -> Trajectory:
    """A trie of random tokens."""
    changes: dict[str, Any] = {} if q is None else {"q": np.array(q, np.float32)}
    rng = random.Random(seed)
    return make_trajectory(seed, lengths or [rng.randrange(1, 6) for _ in parents], parents, **changes)


def random_tree(seed: int, num_steps: int = 25) -> Trajectory:
    rng = random.Random(seed)
    return trajectory([NO_PARENT] + [rng.randrange(NO_PARENT, i) for i in range(1, num_steps)], seed=seed)
