"""What logits say at a sampling temperature: the behaviour policy; and its nucleus, for evaluations alone."""

import torch
from torch import Tensor


def log_policy(logits: Tensor, temperature: float) -> Tensor:
    """float32 log-probabilities [..., V] at a sampling temperature."""
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def nucleus(chances: Tensor, top_p: float) -> Tensor:
    """`chances` [..., V] of the fewest likeliest tokens that reach `top_p` together (Holtzman et al., 2020), else 0."""
    likeliest, order = chances.sort(dim=-1, descending=True, stable=True)
    before = likeliest.cumsum(-1, dtype=torch.float64) - likeliest
    return torch.zeros_like(chances).scatter(-1, order, likeliest.masked_fill(before >= top_p, 0.0))
