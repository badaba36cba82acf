"""Sets of weights."""

from collections.abc import Sequence

import numpy as np

from tsd.transport.deltas import Frame, encode_update
from tsd.transport.replica import Replica
from tsd.types import WeightUpdate


def decoded(frames: Sequence[Frame], base: WeightUpdate | None = None) -> WeightUpdate:
    """What frames make of a copy of `base`."""
    with Replica() as replica:
        if base is not None:
            replica.take([encode_update(base).frames])
        return replica.take([frames])


def changed(update: WeightUpdate, share: float, seed: int = 0) -> WeightUpdate:
    """The next version, with another value at that share of the positions."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, tensor in update.tensors.items():
        bits = tensor.copy().view(f"u{tensor.itemsize}")
        bits[rng.random(tensor.shape) < share] ^= 1
        tensors[name] = bits.view(tensor.dtype)
    return WeightUpdate(update.version + 1, tensors)


def large(dtype: str, version: int = 0) -> WeightUpdate:
    rng = np.random.default_rng(version)
    shapes = {"a": (300, 70), "b": (4000,), "c": (13, 7, 11)}
    return WeightUpdate(
        version, {name: rng.integers(0, 2**15, shape, "u2").astype(dtype) for name, shape in shapes.items()}
    )
