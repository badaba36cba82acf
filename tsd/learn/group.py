"""The trainer's processes as one group: what rank 0 took is shared out, gradients are summed.

One process is a group of one and needs no torch.distributed. Knows nothing about losses or sockets.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Group:
    """Rank and size, and the two collective operations an update needs."""

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

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds up every rank's gradients; a rank without work in this batch counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


@contextmanager
def join_group(rank: int, size: int, timeout_s: float) -> Iterator[Group]:
    """Meets the other ranks (gloo on CPU, nccl on GPUs) and leaves them at the end."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if size == 1:
        yield Group(device=device)
        return
    # The launcher gives the meeting point to all ranks; torch reads MASTER_ADDR and MASTER_PORT itself.
    assert "MASTER_PORT" in os.environ, "the launcher sets MASTER_ADDR and MASTER_PORT"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s))
    try:
        yield Group(rank, size, device)
    finally:
        dist.destroy_process_group()
