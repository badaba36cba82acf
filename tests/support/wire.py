"""What the tests of transport share: a trajectory, weights, and whether two are the same."""

import zlib
from typing import Any

import msgspec
import numpy as np

from tsd.transport.codec import HEAD_BYTES
from tsd.transport.hello import Hello
from tsd.types import Grade, Trajectory, WeightUpdate

PATIENCE_S = 10.0
HELLO = Hello(run="r", tokenizer="t")
SOON_S = 0.05


def trajectory(name: str = "t", **changes: Any) -> Trajectory:
    whole = Trajectory(
        sender=name,
        serial=0,
        group="g",
        problem_id="p",
        generator=3,
        position=5,
        prompt=np.array([1, 2], np.int32),
        tokens=np.array([3, 4, 5], np.int32),
        logprobs=np.array([-0.5, -1.0, -np.pi], np.float32),
        values=np.array([0.1, 0.2, 0.3], np.float32),
        versions=np.array([7, 6, 7], np.int32),
        lengths=np.array([2, 1], np.int32),
        parents=np.array([-1, 0], np.int32),
        visits=np.array([4, 2], np.int32),
        q=np.array([0.1, 0.25], np.float32),
        grade=Grade(0.25, exact=False, well_formed=True),
        num_generated=41,
    )
    return msgspec.structs.replace(whole, **changes)


def weights(version: int, seed: int = 0) -> WeightUpdate:
    rng = np.random.default_rng(seed + version)
    shapes = {"layer.weight": (3, 4), "layer.bias": (4,), "scale": ()}
    return WeightUpdate(version, {name: np.array(rng.normal(size=shape), "<f4") for name, shape in shapes.items()})


def assert_same(found: Trajectory | WeightUpdate, sent: Trajectory | WeightUpdate) -> None:
    if isinstance(found, WeightUpdate):
        found = msgspec.structs.replace(found, path="")  # of a generator's own file
    assert msgspec.msgpack.encode(found, enc_hook=_listed) == msgspec.msgpack.encode(sent, enc_hook=_listed)


def _listed(array: object) -> object:
    assert isinstance(array, np.ndarray)
    return [str(array.dtype), array.shape, array.tobytes()]


def of_protocol(number: int, frame: bytes) -> bytes:
    """The same, as another version of tsd would send it."""
    numbered = bytes([number]) + frame[HEAD_BYTES:]
    return zlib.crc32(numbered).to_bytes(4, "little") + numbered
