"""How healthy an update is: a batch's sums as figures, and what to say in plain words when one leaves its range.

Knows nothing about where the figures go.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tsd.types import Stats

QUANTILES = (0.01, 0.5, 0.99)


def quantiles(log_ratios: Sequence[Tensor]) -> tuple[float, ...]:
    """Ratios at QUANTILES; ones where there are none."""
    together = torch.cat([one.detach().float().cpu() for one in log_ratios]) if log_ratios else torch.zeros(0)
    if not len(together) or not together.isfinite().all():
        return (1.0,) * len(QUANTILES)
    return tuple(torch.quantile(together.exp(), torch.tensor(QUANTILES)).tolist())


def variance(total: float, squares: float, count: float) -> float:
    """From a sum and a sum of squares."""
    return max(0.0, squares / count - (total / count) ** 2)


def warnings(stats: Stats) -> Sequence[str]:
    """What looks wrong, and what usually helps."""
    said: list[str] = []
    if stats.effective_sample_share < 0.5:
        said.append(
            f"few tokens carry this update (effective sample share {stats.effective_sample_share:.2f}): trajectories "
            "are stale, or train.learning_rate is too high"
        )
    if stats.logprob_gap is not None and stats.logprob_gap > 1e-2:
        said.append(f"trainer and engine disagree at the same weights: mean |logprob gap| {stats.logprob_gap:.1e}")
    if stats.kl > 0.5:
        said.append(f"the policy is far from its start (KL {stats.kl:.2f}): raise loss.c_kl or lower the learning rate")
    if stats.entropy < 0.01:
        said.append(f"the policy has collapsed: entropy {stats.entropy:.4f} nats a token")
    if stats.explained_variance is not None and stats.explained_variance < -1:
        said.append(f"the value head is worse than a constant: explained variance {stats.explained_variance:.1f}")
    return said
