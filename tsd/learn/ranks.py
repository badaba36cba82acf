"""The trainer's processes as one group: what rank 0 took is shared out, the model is split among them (FSDP2).

One process is a group of one and needs no torch.distributed. Knows nothing about losses or sockets.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from tsd.model.policy import Policy, own_device

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""How states that are split over ranks are gathered on rank 0."""


class Ranks:
    """Rank and size, and what an update needs the others for. Every rank makes the same calls in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")

    def broadcast(self, message: bytes | None) -> bytes:
        """Rank 0's message, on every rank. Waits for rank 0; the group's timeout bounds it."""
        if self.size == 1:
            assert message is not None
            return message
        length = torch.tensor([len(message or b"")], device=self.device)
        dist.broadcast(length, src=0)
        buffer = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if message is not None:
            buffer.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
        dist.broadcast(buffer, src=0)
        return buffer.cpu().numpy().tobytes()

    def shard(self, policy: Policy) -> Policy:
        """Splits weights, gradients and with them the optimizer's state over the ranks, layer by layer.

        From then on each forward and backward pass is one of all ranks together, and gradients are means over ranks.
        Layers travel in the precision of the forward pass, with their norms, which engines round too and one rank alone
        does not; gradients travel in float32. What passes between layers stays float32.
        """
        policy = policy.to(self.device)
        if self.size > 1:
            mixed = MixedPrecisionPolicy(policy.forward_dtype, torch.float32, cast_forward_inputs=False)
            for layer in policy.causal.model.layers:
                fully_shard(layer, mp_policy=mixed)
            fully_shard(policy)
            register_fsdp_forward_method(policy, "score")
        return policy

    def parameters(self, policy: Policy) -> list[nn.Parameter]:
        """This rank's own part of each. After a forward pass without a backward one some are still whole."""
        for module in policy.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return list(policy.parameters())

    def gather(self, policy: Policy) -> dict[str, Tensor]:
        """The whole model by the names of `Policy.named_tensors`, on rank 0; on the others nothing."""
        if self.size == 1:
            return policy.named_tensors()
        state: dict[str, Any] = get_model_state_dict(policy, options=WHOLE)
        tied = {"causal.lm_head.weight"} if policy.tied() else set()
        return {name.removeprefix("causal."): tensor for name, tensor in state.items() if name not in tied}

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


@contextmanager
def join_ranks(rank: int, size: int, timeout_s: float) -> Iterator[Ranks]:
    """Meets the other ranks (gloo on CPU, nccl on GPUs) and leaves them at the end."""
    device = own_device()
    if size == 1:
        yield Ranks(device=device)
        return
    # The launcher gives the meeting point to all ranks; torch reads MASTER_ADDR and MASTER_PORT itself.
    assert "MASTER_PORT" in os.environ, "the launcher sets MASTER_ADDR and MASTER_PORT"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield Ranks(rank, size, device)
    finally:
        dist.destroy_process_group()
