"""Losses as pure functions of tensors: policy (PPO-clip, CISPO), value, KL.

All arguments are float32 [B, T] over sampled tokens, `mask` bool [B, T]; each loss is the sum over masked tokens, for
the caller to divide by the whole batch's count, so that micro-batches add up exactly. Knows nothing about models.
"""

from typing import assert_never

from torch import Tensor

from tsd.config import CispoConfig, LossConfig, PpoConfig


def ppo_loss(log_ratio: Tensor, advantages: Tensor, mask: Tensor, config: PpoConfig) -> Tensor:
    """PPO-clip (Schulman et al., 2017): -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = pi / behaviour."""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return _masked_sum(-(ratio * advantages).minimum(clipped * advantages), mask)


def cispo_loss(logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, mask: Tensor, config: CispoConfig) -> Tensor:
    """CISPO (MiniMax-M1, 2025): -sg(min(r, max_ratio)) A log pi; every token keeps its gradient."""
    ratio = log_ratio.exp().clamp(max=config.max_ratio).detach()
    return _masked_sum(-ratio * advantages * logprobs, mask)


def policy_loss(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """The one that [loss] names. `advantages` carry no gradient."""
    _check_shapes(logprobs, behaviour, advantages, mask)
    log_ratio = logprobs - behaviour
    match config:
        case PpoConfig():
            return ppo_loss(log_ratio, advantages, mask, config)
        case CispoConfig():
            return cispo_loss(logprobs, log_ratio, advantages, mask, config)
    assert_never(config)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Squared error of V(s_t) against the return."""
    _check_shapes(values, returns, mask)
    return _masked_sum((values - returns).square(), mask)


def kl_loss(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """KL(pi || reference) estimated on sampled tokens by k3 (Schulman, 2020): r - 1 - log r, r = reference / pi."""
    _check_shapes(logprobs, reference, mask)
    log_ratio = reference - logprobs
    return _masked_sum(log_ratio.exp() - 1 - log_ratio, mask)


def _masked_sum(terms: Tensor, mask: Tensor) -> Tensor:
    return terms.masked_fill(~mask, 0.0).sum()


def _check_shapes(first: Tensor, *others: Tensor) -> None:
    assert all(other.shape == first.shape for other in others), f"{[first.shape, *(o.shape for o in others)]} differ"
