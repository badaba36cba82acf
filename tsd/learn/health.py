"""How healthy an update is: what to say in plain words when a figure of it leaves its range.

Knows nothing about where the figures come from.
"""

from collections.abc import Sequence

from tsd.types import Stats


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
