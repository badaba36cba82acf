"""What each token of a trajectory is to learn. Knows nothing about models, rows or losses."""

from dataclasses import dataclass

import numpy as np

from tsd.types import Trajectory

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Targets:
    """Arrays over a trajectory's tokens, float32 [num_tokens]."""

    returns: Array
    """What V of the state before each token should be."""
    advantages: Array


def path_targets(trajectory: Trajectory, advantages: Array) -> Targets:
    """A path's targets: V should be its reward everywhere."""
    returns = np.full(len(trajectory.tokens), trajectory.grade.reward, np.float32)
    return Targets(returns, np.asarray(advantages, np.float32))


def against_value(trajectory: Trajectory) -> Targets:
    """A path's targets: A = R - V(s_t), with V as it was when the token was sampled (Schulman et al., 2017)."""
    return path_targets(trajectory, trajectory.grade.reward - trajectory.values)
