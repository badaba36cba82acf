"""Trajectories of random tokens, for tests that learn from them or send them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from tsd.types import NO_PARENT, Grade, Trajectory


def make_trajectory(
    seed: int, lengths: Sequence[int], parents: Sequence[int] | None = None, num_prompt: int = 5, **changes: Any
) -> Trajectory:
    """Steps of those lengths, a path unless told otherwise; its serial is the seed, and its group is its own."""
    rng, size = np.random.default_rng(seed), int(sum(lengths))
    parents = range(NO_PARENT, len(lengths) + NO_PARENT) if parents is None else parents
    made = Trajectory(
        sender="0-a",
        serial=seed,
        group=f"g{seed}",
        problem_id="p",
        generator=0,
        position=seed,
        prompt=rng.integers(6, 25, num_prompt, np.int32),
        tokens=rng.integers(6, 25, size, np.int32),
        logprobs=rng.normal(-1.5, 0.2, size).astype(np.float32),
        values=np.zeros(size, np.float32),
        versions=np.zeros(size, np.int32),
        lengths=np.array(lengths, np.int32),
        parents=np.array(parents, np.int32),
        visits=rng.integers(1, 9, len(lengths), np.int32),
        q=rng.uniform(-1, 1, len(lengths)).astype(np.float32),
        grade=Grade(0.5, False, True),
        num_generated=size,
    )
    return msgspec.structs.replace(made, **changes)
