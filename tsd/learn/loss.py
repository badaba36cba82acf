"""Losses as pure functions of tensors: policy (PPO-clip, CISPO), value, KL, and the advantages they take.

All arguments are float32 [B, T] over sampled tokens, `mask` bool [B, T]; each loss is the sum over masked tokens, for
the caller to divide by the whole batch's count, so that micro-batches add up exactly. Knows nothing about models.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor

from tsd.config import LossConfig

KlKind = Literal["k1", "k2", "k3"]
MIN_STD = 1e-6


def group_advantages(rewards: Sequence[float], groups: Sequence[str]) -> Tensor:
    """(R - mean) / (std + 1e-4) within each group, float32 [len(rewards)]; 0 where all of a group are equal.

    Group-normalised advantages of GRPO (Shao et al., 2024), with the sample's standard deviation.
    """
    found, members = torch.tensor(rewards, dtype=torch.float32), torch.zeros(len(rewards))
    for group in dict.fromkeys(groups):
        index = torch.tensor([i for i, one in enumerate(groups) if one == group])
        own = found[index]
        std = own.std() if len(own) > 1 else torch.zeros(())
        members[index] = (own - own.mean()) / (std + 1e-4) if std > MIN_STD else 0.0
    return members


def log_ratios(logprobs: Tensor, behaviour: Tensor, mask: Tensor, level: Literal["token", "sequence", "one"]) -> Tensor:
    """log(pi / behaviour), [B, T], of each token or, the same for all of a row, of the mean over its masked tokens.

    The second is GSPO's (Zheng et al., 2025): its value is the sequence's, its gradient each token's own. `one` takes
    the policy itself for what sampled, as if nothing were ever stale.
    """
    _check_shapes(logprobs, behaviour, mask)
    if level == "one":
        return logprobs - logprobs.detach()
    if level == "token":
        return logprobs - behaviour
    if level == "sequence":
        difference = (logprobs - behaviour).masked_fill(~mask, 0.0)
        mean = difference.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)  # [B, 1]
        return mean.detach() + logprobs - logprobs.detach()
    assert_never(level)


def kept(log_ratio: Tensor, mask: Tensor, max_ratio: float) -> Tensor:
    """The mask without tokens whose ratio lies outside [1 / max_ratio, max_ratio]; all of it where that is 0."""
    if not max_ratio:
        return mask
    return mask & (log_ratio.detach().abs() <= torch.tensor(max_ratio).log())


def ppo_loss(log_ratio: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """PPO-clip (Schulman et al., 2017): -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = pi / behaviour."""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return _masked_sum(-(ratio * advantages).minimum(clipped * advantages), mask)


def cispo_loss(logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """CISPO (MiniMax-M1, 2025): -sg(min(r, cispo_max_ratio)) A log pi; every token keeps its gradient."""
    ratio = log_ratio.exp().clamp(max=config.cispo_max_ratio).detach()
    return _masked_sum(-ratio * advantages * logprobs, mask)


def policy_loss(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """The one that `loss.kind` names. `advantages` carry no gradient."""
    _check_shapes(logprobs, behaviour, advantages, mask)
    log_ratio = log_ratios(logprobs, behaviour, mask, config.ratio)
    mask = kept(log_ratio, mask, config.ratio_mask)
    if config.kind == "ppo":
        return ppo_loss(log_ratio, advantages.detach(), mask, config)
    if config.kind == "cispo":
        return cispo_loss(logprobs, log_ratio, advantages.detach(), mask, config)
    assert_never(config.kind)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor, old: Tensor | None = None, clip: float = 0.0) -> Tensor:
    """Squared error of V(s_t) against the return; with `clip`, of the worse of V and V kept within `clip` of `old`."""
    _check_shapes(values, returns, mask)
    error = (values - returns).square()
    if clip:
        assert old is not None, "clipping needs the values of sampling time"
        _check_shapes(values, old)
        near = old + (values - old).clamp(-clip, clip)
        error = error.maximum((near - returns).square())
    return _masked_sum(error, mask)


def kl_loss(logprobs: Tensor, reference: Tensor, mask: Tensor, kind: KlKind = "k3") -> Tensor:
    """KL(pi || reference) estimated on sampled tokens (Schulman, 2020), with r = reference / pi.

    k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r.
    """
    _check_shapes(logprobs, reference, mask)
    log_ratio = reference - logprobs
    if kind == "k1":
        terms = -log_ratio
    elif kind == "k2":
        terms = log_ratio.square() / 2
    elif kind == "k3":
        terms = log_ratio.exp() - 1 - log_ratio
    else:
        assert_never(kind)
    return _masked_sum(terms, mask)


def visit_loss(logprobs: Tensor, visit_shares: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of steps under the policy with their shares of visits (Silver et al., 2017): -sum N / N_all log pi.

    A step's log pi is the sum over its tokens, each of which carries the step's share.
    """
    _check_shapes(logprobs, visit_shares, mask)
    return _masked_sum(-visit_shares * logprobs, mask)


def entropy_loss(entropy: Tensor, mask: Tensor) -> Tensor:
    """What an entropy bonus adds: the entropy's negative."""
    _check_shapes(entropy, mask)
    return _masked_sum(-entropy, mask)


def _masked_sum(terms: Tensor, mask: Tensor) -> Tensor:
    return terms.masked_fill(~mask, 0.0).sum()


def _check_shapes(first: Tensor, *others: Tensor) -> None:
    assert all(other.shape == first.shape for other in others), f"{[first.shape, *(o.shape for o in others)]} differ"
