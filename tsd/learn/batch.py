"""From trajectories to padded micro-batches. Knows nothing about models or losses.

Every array lies on the positions that predict: column t of `behaviour`, `mask` and of what the model gives there is
about token t + 1 of `tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
    rewards: Tensor
    """float32 [B]"""

    @property
    def num_tokens(self) -> int:
        """Response tokens in it."""
        return int(self.mask.sum())


def collate(trajectories: Sequence[Trajectory], max_tokens: int) -> list[MicroBatch]:
    """Micro-batches of like lengths, each of at most `max_tokens` with padding (a longer trajectory goes alone)."""
    ordered = sorted(trajectories, key=_length)
    batches: list[MicroBatch] = []
    while ordered:
        count = max(1, min(len(ordered), max_tokens // _length(ordered[-1])))
        batches.append(_pad(ordered[-count:]))
        ordered = ordered[:-count]
    return batches


def _length(trajectory: Trajectory) -> int:
    return len(trajectory.prompt) + len(trajectory.tokens)


def _pad(trajectories: Sequence[Trajectory]) -> MicroBatch:
    shape = (len(trajectories), max(map(_length, trajectories)))
    tokens = np.zeros(shape, np.int64)
    behaviour, versions = np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
    mask = np.zeros(shape, np.bool_)
    for row, trajectory in enumerate(trajectories):
        start, end = len(trajectory.prompt), _length(trajectory)
        tokens[row, :start], tokens[row, start:end] = trajectory.prompt, trajectory.tokens
        behaviour[row, start:end] = trajectory.logprobs
        versions[row, start:end] = trajectory.versions
        mask[row, start:end] = True
    return MicroBatch(
        tokens=torch.from_numpy(tokens),
        behaviour=torch.from_numpy(behaviour[:, 1:]),
        mask=torch.from_numpy(mask[:, 1:]),
        versions=torch.from_numpy(versions[:, 1:]),
        rewards=torch.tensor([trajectory.grade.reward for trajectory in trajectories]),
    )
