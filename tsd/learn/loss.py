"""Losses as pure functions of tensors: policy (PPO-clip, CISPO), value, KL.

All arguments are float32 [B, T] over predicted tokens, `mask` bool [B, T]; each loss is the sum over masked tokens, for
the caller to divide by the whole batch's count, so that micro-batches add up exactly. Knows nothing about models.
"""

from torch import Tensor

from tsd.config import LossConfig


def ppo_loss(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """PPO-clip (Schulman et al., 2017): -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = pi / behaviour."""
    ratio = (logprobs - behaviour).exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return _masked_sum(-(ratio * advantages).minimum(clipped * advantages), mask)


def cispo_loss(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """CISPO (MiniMax-M1, 2025): -sg(min(r, cispo_max_ratio)) A log pi; every token keeps its gradient."""
    ratio = (logprobs - behaviour).exp().clamp(max=config.cispo_max_ratio).detach()
    return _masked_sum(-ratio * advantages * logprobs, mask)


def policy_loss(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """The one that `loss.kind` names. `advantages` carry no gradient."""
    _check_shapes(logprobs, behaviour, advantages, mask)
    loss = ppo_loss if config.kind == "ppo" else cispo_loss
    return loss(logprobs, behaviour, advantages.detach(), mask, config)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Squared error of V(s_t) against the final reward."""
    _check_shapes(values, returns, mask)
    return _masked_sum((values - returns).square(), mask)


def kl_k3(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """KL(pi || reference), Schulman's k3 estimator on sampled tokens: r - 1 - log r with r = reference / pi."""
    _check_shapes(logprobs, reference, mask)
    log_ratio = reference - logprobs
    return _masked_sum(log_ratio.exp() - 1 - log_ratio, mask)


def _masked_sum(terms: Tensor, mask: Tensor) -> Tensor:
    return terms.masked_fill(~mask, 0.0).sum()


def _check_shapes(first: Tensor, *others: Tensor) -> None:
    assert all(other.shape == first.shape for other in others), f"{[first.shape, *(o.shape for o in others)]} differ"
