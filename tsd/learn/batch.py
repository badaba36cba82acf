"""From trajectories to padded micro-batches. Knows nothing about models or losses.

Every array lies on the positions that predict: column t of `behaviour`, `mask` and of what the model gives there is
about token t + 1 of `tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsd.learn.loss import group_advantages
from tsd.types import Trajectory


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B trajectories, T the longest prompt plus response, padded on the right."""

    tokens: Tensor
    """int64 [B, T]"""
    behaviour: Tensor
    """float32 [B, T-1]: behaviour logprobs of response tokens, 0 elsewhere."""
    mask: Tensor
    """bool [B, T-1]: where the predicted token belongs to a response."""
    versions: Tensor
    """int64 [B, T-1]: policy version that sampled each response token, -1 elsewhere."""
    values: Tensor
    """float32 [B, T-1]: V of sampling time before each response token, 0 elsewhere."""
    rewards: Tensor
    """float32 [B]"""
    group_advantages: Tensor
    """float32 [B]: the reward normalised over the trajectory's group in the whole batch."""

    @property
    def num_tokens(self) -> int:
        """Response tokens in it."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True)
class Weighed:
    """A trajectory and what is known of it only beside the others of its batch."""

    trajectory: Trajectory
    group_advantage: float


def weigh(trajectories: Sequence[Trajectory]) -> list[Weighed]:
    """Before a batch is cut or shared out: a group's members must be seen together."""
    rewards, groups = [one.grade.reward for one in trajectories], [one.group for one in trajectories]
    advantages = group_advantages(rewards, groups).tolist()
    return [Weighed(one, advantage) for one, advantage in zip(trajectories, advantages, strict=True)]


def collate(trajectories: Sequence[Weighed], max_tokens: int) -> list[MicroBatch]:
    """Micro-batches of like lengths, each of at most `max_tokens` with padding (a longer trajectory goes alone)."""
    ordered = sorted(trajectories, key=_length)
    batches: list[MicroBatch] = []
    while ordered:
        count = max(1, min(len(ordered), max_tokens // _length(ordered[-1])))
        batches.append(_pad(ordered[-count:]))
        ordered = ordered[:-count]
    return batches


def _length(weighed: Weighed) -> int:
    return len(weighed.trajectory.prompt) + len(weighed.trajectory.tokens)


def _pad(trajectories: Sequence[Weighed]) -> MicroBatch:
    shape = (len(trajectories), max(map(_length, trajectories)))
    tokens = np.zeros(shape, np.int64)
    behaviour, values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    versions, mask = np.full(shape, -1, np.int64), np.zeros(shape, np.bool_)
    for row, weighed in enumerate(trajectories):
        trajectory = weighed.trajectory
        start, end = len(trajectory.prompt), _length(weighed)
        tokens[row, :start], tokens[row, start:end] = trajectory.prompt, trajectory.tokens
        behaviour[row, start:end], values[row, start:end] = trajectory.logprobs, trajectory.values
        versions[row, start:end] = trajectory.versions
        mask[row, start:end] = True
    return MicroBatch(
        tokens=torch.from_numpy(tokens),
        behaviour=torch.from_numpy(behaviour[:, 1:]),
        mask=torch.from_numpy(mask[:, 1:]),
        versions=torch.from_numpy(versions[:, 1:]),
        values=torch.from_numpy(values[:, 1:]),
        rewards=torch.tensor([weighed.trajectory.grade.reward for weighed in trajectories]),
        group_advantages=torch.tensor([weighed.group_advantage for weighed in trajectories]),
    )
