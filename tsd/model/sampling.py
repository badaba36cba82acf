"""Behaviour logprobs, the one place where temperature turns logits into a distribution."""

import torch
from torch import Tensor


def log_policy(logits: Tensor, temperature: float) -> Tensor:
    """float32 log-probabilities [..., V] at a sampling temperature."""
    return torch.log_softmax(logits.float() / temperature, dim=-1)
