"""One update: forward, losses, gradients, optimizer step. Knows nothing about sockets, files or versions' meaning."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsd.config import LossConfig
from tsd.learn.batch import MicroBatch
from tsd.learn.group import Group
from tsd.learn.loss import kl_k3, policy_loss, value_loss
from tsd.model.policy import Policy
from tsd.model.sampling import log_policy


@dataclass(frozen=True, slots=True)
class Stats:
    """Means over the response tokens of a whole batch, before its step."""

    loss: float
    policy_loss: float
    value_loss: float
    kl: float
    entropy: float
    ratio_mean: float
    logprob_gap: float | None
    """Mean |trainer - behaviour| logprob over tokens of the trainer's own version, if there are any."""
    grad_norm: float


SUMS = ("policy", "value", "kl", "entropy", "ratio", "gap", "gap_tokens")


@dataclass(frozen=True, slots=True)
class Scored:
    """What the policy says of a micro-batch. All [B, T-1]."""

    logprobs: Tensor
    values: Tensor
    entropy: Tensor


def score(
    policy: Policy, batch: MicroBatch, temperature: float, device: torch.device, *, value_reaches_trunk: bool = True
) -> Scored:
    """Logprobs at the sampling temperature, values and entropies at every predicting position."""
    tokens = batch.tokens.to(device)
    # [B, T-1, V] and [B, T-1]. Padding is on the right, where no real token looks under the causal mask.
    logits, values = policy(tokens[:, :-1], value_reaches_trunk=value_reaches_trunk, use_cache=False)
    log_probs = log_policy(logits, temperature)
    logprobs = log_probs.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
    return Scored(logprobs, values, entropy)


def update(
    policy: Policy,
    reference: Policy | None,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[MicroBatch],
    *,
    config: LossConfig,
    temperature: float,
    max_grad_norm: float,
    own_version: int,
    group: Group,
) -> Stats | None:
    """One optimizer step on this rank's micro-batches and the other ranks' together.

    Returns None, and changes nothing, where loss or gradients are not finite.
    """
    num_tokens = group.sum(torch.tensor([sum(batch.num_tokens for batch in batches)], device=group.device)).item()
    sums = torch.zeros(len(SUMS), device=group.device)
    optimizer.zero_grad()
    for batch in batches:
        loss, terms = _losses(policy, reference, batch, config, temperature, own_version, group.device)
        (loss / num_tokens).backward()  # type: ignore[no-untyped-call]
        sums += terms
    group.sum_gradients(policy.parameters())
    totals = dict(zip(SUMS, group.sum(sums).tolist(), strict=True))
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
    if not torch.isfinite(grad_norm):
        optimizer.zero_grad()
        return None
    optimizer.step()
    return _stats(totals, num_tokens, config, float(grad_norm))


def _losses(
    policy: Policy,
    reference: Policy | None,
    batch: MicroBatch,
    config: LossConfig,
    temperature: float,
    own_version: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The weighted loss, summed over tokens, and its terms in the order of SUMS, without gradient."""
    scored = score(policy, batch, temperature, device, value_reaches_trunk=config.value_reaches_trunk)
    behaviour, mask = batch.behaviour.to(device), batch.mask.to(device)
    returns = batch.rewards.to(device)[:, None].expand_as(scored.values)
    advantages = (returns - scored.values).detach()  # A = R - V(s_t)
    actor = policy_loss(scored.logprobs, behaviour, advantages, mask, config)
    critic = value_loss(scored.values, returns, mask)
    kl = torch.zeros((), device=device)
    if reference is not None:
        with torch.no_grad():
            anchor = score(reference, batch, temperature, device).logprobs
        kl = kl_k3(scored.logprobs, anchor, mask)
    loss = config.c_policy * actor + config.c_value * critic + config.c_kl * kl
    with torch.no_grad():
        log_ratio = scored.logprobs - behaviour
        own = mask & (batch.versions.to(device) == own_version)
        terms = [actor, critic, kl, scored.entropy[mask].sum(), log_ratio.exp()[mask].sum()]
        terms += [log_ratio.abs()[own].sum(), own.sum()]
    return loss, torch.stack([term.detach().float() for term in terms])


def _stats(totals: dict[str, float], num_tokens: float, config: LossConfig, grad_norm: float) -> Stats:
    policy, value, kl, entropy, ratio = (totals[name] / num_tokens for name in SUMS[:5])
    return Stats(
        loss=config.c_policy * policy + config.c_value * value + config.c_kl * kl,
        policy_loss=policy,
        value_loss=value,
        kl=kl,
        entropy=entropy,
        ratio_mean=ratio,
        logprob_gap=totals["gap"] / totals["gap_tokens"] if totals["gap_tokens"] else None,
        grad_norm=grad_norm,
    )
