"""What each token of a trajectory is to learn: returns, advantages, visit shares, from what search says of its steps.

Everything here is numpy over the steps of one trajectory; knows nothing about models, rows or losses.
"""

from dataclasses import dataclass

import numpy as np

from tsd.config import LossConfig
from tsd.types import FIRST, Trajectory

Array = np.ndarray
MIN_STD = 0.05
"""Added to the standard deviation of advantages, so that a tree whose steps are all alike stays so."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Arrays over a trajectory's tokens, float32 [num_tokens]."""

    returns: Array
    """What the policy's advantage R - V compares with V."""
    value_returns: Array
    """What V of the state before each token should be."""
    advantages: Array
    """Of the group or among siblings; 0 where `advantage` is `value`, which the trainer's own V gives."""
    visit_shares: Array
    """The share of its siblings' visits that went to a token's step."""


def targets(trajectory: Trajectory, group_advantage: float, config: LossConfig) -> Targets:
    """What `config` has a trajectory's tokens learn; `group_advantage` is all of the trajectory's."""
    lengths, parents = trajectory.lengths, trajectory.parents
    step_of = np.repeat(np.arange(len(lengths)), lengths)  # [num_tokens]
    returns = step_returns(trajectory, config.tree_value_share)  # [num_steps + 1], the prompt's last
    value_returns = returns[step_of]
    value_returns[np.cumsum(lengths) - lengths] = returns[parents]  # before a step: V of the state it starts from
    if config.advantage == "group":
        advantages = np.full(len(step_of), group_advantage, np.float32)
    elif config.advantage == "tree":
        advantages = tree_advantages(returns, parents, trajectory.visits, config.visit_power)[step_of]
        if config.scale_advantages:
            advantages /= np.sqrt((advantages**2).mean()) + MIN_STD
    elif config.advantage == "sibling":
        advantages = sibling_advantages(returns[:-1], parents)[step_of]
        if config.scale_advantages:
            advantages /= np.sqrt((advantages**2).mean()) + MIN_STD
    else:
        advantages = np.zeros(len(step_of), np.float32)
    shares = visit_shares(trajectory.visits, parents)[step_of]
    return Targets(returns[step_of], value_returns, advantages, shares)


def step_returns(trajectory: Trajectory, tree_value_share: float) -> Array:
    """float32 [num_steps + 1], of the state after each step, and last of the prompt: (1 - share) * R + share * Q.

    The prompt's is the mean over the steps that follow it, by visits.
    """
    mixed = (1 - tree_value_share) * trajectory.rewards + tree_value_share * trajectory.q
    top = trajectory.parents == FIRST
    return np.append(mixed, np.average(mixed[top], weights=np.maximum(1, trajectory.visits[top]))).astype(np.float32)


def sibling_advantages(returns: Array, parents: Array) -> Array:
    """float32 [num_steps]: a step's return less the mean of those that follow the same step, its own included."""
    place = parents - FIRST
    count, total = np.bincount(place), np.bincount(place, weights=returns)
    means: Array = total / np.maximum(count, 1)
    return np.asarray(returns - means[place], np.float32)


def tree_advantages(returns: Array, parents: Array, visits: Array, visit_power: float) -> Array:
    """float32 [num_steps]: a step's return less that of the state it starts from, and less the prompt's.

    TreeRL's local and global advantage (Hou et al., 2025), times visits ** visit_power: with 1 a step counts as often
    as paths came by it, as it would if they were separate samples.
    """
    own = returns[:-1]
    return np.asarray((2 * own - returns[parents] - returns[-1]) * np.maximum(visits, 1) ** visit_power, np.float32)


def visit_shares(visits: Array, parents: Array) -> Array:
    """float32 [num_steps]: N over the sum of N of those that follow the same step; 0 where none was visited."""
    place = parents - FIRST
    total = np.bincount(place, weights=visits)
    return np.asarray(visits / np.maximum(total, 1)[place], np.float32)


def num_laid_out(trajectory: Trajectory) -> int:
    """Tokens of all its branches one by one, each with the prompt: what one pass over the trie spares."""
    depths = np.zeros(len(trajectory.lengths) + 1, np.int64)  # the prompt's last, at FIRST
    depths[FIRST] = len(trajectory.prompt)
    for i, (length, parent) in enumerate(zip(trajectory.lengths, trajectory.parents, strict=True)):
        depths[i] = depths[parent] + length
    followed = np.zeros(len(depths), np.bool_)
    followed[trajectory.parents] = True
    return int(depths[~followed].sum())
