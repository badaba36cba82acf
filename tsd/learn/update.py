"""One update: forward, losses, gradients, optimizer step. Knows nothing about sockets, files or versions' meaning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tsd.config import LossConfig
from tsd.learn.batch import MicroBatch
from tsd.learn.loss import kl_loss, policy_loss, value_loss
from tsd.learn.ranks import Ranks
from tsd.model.policy import Policy
from tsd.types import Stats

SUMS = (
    "policy",
    "value",
    "kl",
    "entropy",
    "ratio",
    "ratio_squares",
    "returns",
    "return_squares",
    "errors",
    "error_squares",
)
"""What is added up over tokens, micro-batches and ranks."""
QUANTILES = (0.01, 0.5, 0.99)


@dataclass(frozen=True, slots=True)
class Scored:
    """What the policy says of a micro-batch's sampled tokens. All [B, L]."""

    logprobs: Tensor
    values: Tensor
    entropy: Tensor


def score(
    policy: Policy,
    batch: MicroBatch,
    temperature: float,
    device: torch.device,
    *,
    value_reaches_trunk: bool = True,
) -> Scored:
    """Logprobs at the sampling temperature, values and entropies, at every sampled token."""
    layout = {}
    if batch.attention is not None:
        layout = {"attention_mask": batch.attention.to(device), "position_ids": batch.positions.to(device)}
    logprobs, values, entropy = policy.score(  # padding is on the right, where no real token looks
        batch.tokens.to(device),
        batch.sources.to(device),
        batch.sampled.to(device),
        temperature,
        value_reaches_trunk=value_reaches_trunk,
        use_cache=False,
        **layout,
    )
    return Scored(logprobs, values, entropy)


@torch.no_grad()
def reference_logprobs(
    reference: Policy, batches: Sequence[MicroBatch], temperature: float, device: torch.device
) -> list[Tensor]:
    """The anchor of the KL term, [B, L] for each micro-batch; once, however many steps are taken on a batch."""
    return [score(reference, batch, temperature, device).logprobs for batch in batches]


def update(
    policy: Policy,
    anchors: Sequence[Tensor | None],
    optimizer: torch.optim.Optimizer,
    batches: Sequence[MicroBatch],
    *,
    config: LossConfig,
    temperature: float,
    max_grad_norm: float,
    ranks: Ranks,
) -> Stats | None:
    """One optimizer step on this rank's micro-batches and the other ranks', which have as many.

    `anchors` are the micro-batches' reference logprobs, None without a KL term.

    Returns None, and changes nothing, where loss or gradients are not finite.
    """
    num_tokens = ranks.sum(torch.tensor([sum(batch.num_tokens for batch in batches)], device=ranks.device)).item()
    sums, seen = torch.zeros(len(SUMS), device=ranks.device), list[Tensor]()
    optimizer.zero_grad()
    for batch, anchor in zip(batches, anchors, strict=True):
        scored = score(
            policy,
            batch,
            temperature,
            ranks.device,
            value_reaches_trunk=config.value_reaches_trunk,
        )
        loss, terms, log_ratio = losses(scored, anchor, batch, config, ranks.device)
        # Gradients are means over the ranks.
        (loss / num_tokens * ranks.size).backward()  # type: ignore[no-untyped-call]
        sums += terms
        seen.append(log_ratio)
    totals = dict(zip(SUMS, ranks.sum(sums).tolist(), strict=True))
    # Each on its own: a value head that is far off would scale the policy's gradient down.
    grad_norm, head_norm = (clip(part, max_grad_norm) for part in (policy.causal, policy.value_head))
    if not math.isfinite(grad_norm + head_norm):
        optimizer.zero_grad()
        return None
    optimizer.step()
    return _stats(totals, num_tokens, config, grad_norm, quantiles(seen))


def clip(module: nn.Module, max_norm: float) -> float:
    """Scales a module's gradients down to a norm; the norm before that."""
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def losses(
    scored: Scored, anchor: Tensor | None, batch: MicroBatch, config: LossConfig, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted loss, summed over tokens; its terms in the order of SUMS; and the tokens' log ratios [N]."""
    behaviour, mask = batch.behaviour.to(device), batch.mask.to(device)
    returns, advantages = batch.returns.to(device), batch.advantages.to(device)
    actor = policy_loss(scored.logprobs, behaviour, advantages, mask, config)
    critic = value_loss(scored.values, returns, mask)
    kl = torch.zeros((), device=device) if anchor is None else kl_loss(scored.logprobs, anchor, mask)
    loss = actor + config.c_value * critic + config.c_kl * kl
    with torch.no_grad():
        log_ratio = (scored.logprobs - behaviour)[mask]
        ratio, goal, error = log_ratio.exp(), returns[mask], (returns - scored.values)[mask]
        terms = [actor, critic, kl, scored.entropy[mask].sum(), ratio.sum(), ratio.square().sum()]
        terms += [goal.sum(), goal.square().sum(), error.sum(), error.square().sum()]
    return loss, torch.stack([term.detach().float() for term in terms]), log_ratio


def _stats(
    totals: dict[str, float],
    num_tokens: float,
    config: LossConfig,
    grad_norm: float,
    ratio_quantiles: tuple[float, ...],
) -> Stats:
    policy, value, kl, entropy, ratio = (totals[name] / num_tokens for name in SUMS[:5])
    spread = variance(totals["returns"], totals["return_squares"], num_tokens)
    error = variance(totals["errors"], totals["error_squares"], num_tokens)
    return Stats(
        loss=policy + config.c_value * value + config.c_kl * kl,
        policy_loss=policy,
        value_loss=value,
        kl=kl,
        entropy=entropy,
        ratio_mean=ratio,
        ratio_quantiles=ratio_quantiles,
        effective_sample_share=totals["ratio"] ** 2 / (num_tokens * totals["ratio_squares"]),
        explained_variance=1 - error / spread if spread > 1e-9 else None,
        grad_norm=grad_norm,
    )


def quantiles(log_ratios: Sequence[Tensor]) -> tuple[float, ...]:
    """Ratios at QUANTILES; ones where there are none."""
    together = torch.cat([one.detach().float().cpu() for one in log_ratios]) if log_ratios else torch.zeros(0)
    if not len(together) or not together.isfinite().all():
        return (1.0,) * len(QUANTILES)
    return tuple(torch.quantile(together.exp(), torch.tensor(QUANTILES)).tolist())


def variance(total: float, squares: float, count: float) -> float:
    """From a sum and a sum of squares."""
    return max(0.0, squares / count - (total / count) ** 2)
