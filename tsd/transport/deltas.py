"""Weights as frames: whole, or as a lossless delta from the version before; and which of the two a generator gets.

A delta holds, for each tensor that changed, the positions changed and the values now there, bit for bit. Where both
together would be larger than the tensor, the tensor is there whole. Every tensor that comes out is checked by the
checksum it should have, so that a delta is applied exactly or refused. Knows nothing about sockets and trainers.

Few bfloat16 values change in an update of a small learning rate, and nearly all float32 ones.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import msgspec
import numpy as np

from tsd.errors import FrameError, WeightsError
from tsd.transport.codec import decode, encode
from tsd.types import WeightUpdate

Frame = bytes | memoryview
DTYPES = ("<f4", "<u2")
"""float32, and bfloat16 as its bits."""
MAX_DELTAS = 16
"""Kept at most: who is further behind gets the whole."""
GAPS: tuple[Literal["u1", "u2", "u4"], ...] = ("u1", "u2", "u4")
Positions = Literal["all", "bitmap", "u1", "u2", "u4"]


class _Tensor(msgspec.Struct, frozen=True):
    """What the frame beside it holds: positions, then values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    crc32: int
    """Checksum of the whole tensor as it should be now."""
    count: int
    """Elements changed."""
    positions: Positions
    """A bit for each element, or how many elements lie between one changed and the next, in so many bytes; `all`: none,
    since every element's value follows."""


class _Header(msgspec.Struct, frozen=True):
    version: int
    base: int | None
    """The version that the changes are from; None where every tensor is whole."""
    tensors: tuple[_Tensor, ...]


@dataclass(frozen=True)
class Encoded:
    """A header and a frame for each of its tensors."""

    version: int
    base: int | None
    frames: list[Frame]
    num_changed: int
    """Elements that the update changes; all of them where it is whole."""

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.frames))


@dataclass(frozen=True)
class History:
    """What a trainer can give out: its newest weights whole, and the deltas that lead to them."""

    update: WeightUpdate
    checksum: int
    whole: Encoded
    num_changed: int | None = None
    """Elements that differ from the version before; None for the first."""
    deltas: tuple[Encoded, ...] = ()
    """Each from where the one before it leads to, the last one to `update`. Together no larger than `whole`."""

    @classmethod
    def begin(cls, update: WeightUpdate) -> Self:
        """Touches every byte, as `then` does: not for the event loop. Whole tensors are not copied."""
        sums = tensor_sums(update)
        return cls(update, checksum(update, sums), encode_update(update, None, sums))

    def then(self, update: WeightUpdate) -> "History":
        """With the next version, and without the oldest deltas that are too much."""
        sums = tensor_sums(update)
        whole, newest = encode_update(update, None, sums), encode_update(update, self.update, sums)
        deltas = [*self.deltas, newest]
        while len(deltas) > MAX_DELTAS or sum(delta.num_bytes for delta in deltas) >= whole.num_bytes:
            del deltas[0]
        return History(update, checksum(update, sums), whole, newest.num_changed, tuple(deltas))

    def since(self, version: int | None) -> Sequence[Encoded]:
        """What leads from a version to the newest: deltas where they are there, else the newest whole."""
        bases = [delta.base for delta in self.deltas]
        return self.deltas[bases.index(version) :] if version in bases else (self.whole,)

    @property
    def newest(self) -> Encoded:
        """What leads to it from the version before."""
        return self.deltas[-1] if self.deltas else self.whole


def encode_update(
    update: WeightUpdate, base: WeightUpdate | None = None, sums: Mapping[str, int] | None = None
) -> Encoded:
    """A whole update, or what changed since `base`, which must have the same tensors to be of use.

    `sums` are the update's `tensor_sums`, where they are known.
    """
    sums = tensor_sums(update) if sums is None else sums
    headers: list[_Tensor] = []
    frames: list[Frame] = []
    for name, tensor in update.tensors.items():
        now = _flat(tensor)
        before = None if base is None or name not in base.tensors else _flat(base.tensors[name])
        positions, count, frame = _changes(now, before)
        if count or before is None:
            headers.append(_Tensor(name, now.dtype.str, tensor.shape, sums[name], count, positions))
            frames.append(frame)
    header = _Header(update.version, None if base is None else base.version, tuple(headers))
    return Encoded(update.version, header.base, [encode(header), *frames], sum(one.count for one in headers))


def decode_update(frames: Sequence[Frame], base: WeightUpdate | None = None) -> WeightUpdate:
    """The update that a part's frames make, of `base` where they are a delta.

    Raises WeightsError where a frame is missing, of the wrong size or damaged, or `base` is not what it was made from.
    """
    try:
        header = decode(bytes(frames[0]), _Header)
    except (FrameError, IndexError) as error:
        raise WeightsError(f"a weight update has a damaged header: {error}") from None
    title = f"weights {header.version}"
    if len(frames) != 1 + len(header.tensors):
        raise WeightsError(f"{title}: expected {len(header.tensors)} tensors, found {len(frames) - 1}")
    found = None if base is None else base.version
    if header.base is not None and header.base != found:
        raise WeightsError(f"{title}: they are changes of weights {header.base}, and there are {found}")
    tensors = {} if header.base is None or base is None else dict(base.tensors)
    for tensor, frame in zip(header.tensors, frames[1:], strict=True):
        try:
            tensors[tensor.name] = _decode_tensor(tensor, frame, tensors.get(tensor.name))
        except ValueError as error:
            raise WeightsError(f"{title}: {tensor.name} is damaged: {error}") from None
    return WeightUpdate(header.version, tensors)


def tensor_sums(update: WeightUpdate) -> dict[str, int]:
    """The checksum of each tensor's bytes."""
    return {name: zlib.crc32(_bytes(_flat(tensor))) for name, tensor in update.tensors.items()}


def checksum(update: WeightUpdate, sums: Mapping[str, int] | None = None) -> int:
    """A checksum of names, types, shapes and contents: the same at both ends, or something is wrong."""
    sums, found = tensor_sums(update) if sums is None else sums, 0
    for name, tensor in sorted(update.tensors.items()):
        found = zlib.crc32(f"{name} {_flat(tensor).dtype.str} {tensor.shape} {sums[name]}".encode(), found)
    return found


def num_bytes(update: WeightUpdate) -> int:
    """Bytes of all tensors together."""
    return sum(tensor.nbytes for tensor in update.tensors.values())


def num_elements(update: WeightUpdate) -> int:
    """Elements of all tensors together."""
    return sum(tensor.size for tensor in update.tensors.values())


def _flat(tensor: np.ndarray) -> np.ndarray:
    """One-dimensional and as it travels; no copy where it lies so already."""
    dtype = tensor.dtype.newbyteorder("<")
    assert dtype.str in DTYPES, f"weights travel as {' or '.join(DTYPES)}, not {dtype.str}"
    return np.ascontiguousarray(tensor, dtype).reshape(-1)


def _bits(flat: np.ndarray) -> np.ndarray:
    """As unsigned integers, so that equal means the same bits: 0 is not -0, and a NaN is itself."""
    return flat.view(f"<u{flat.itemsize}")


def _changes(now: np.ndarray, before: np.ndarray | None) -> tuple[Positions, int, Frame]:
    """How positions are written, how many there are, and positions and values in the fewest bytes."""
    if before is None or before.dtype != now.dtype or before.size != now.size:
        return "all", now.size, _bytes(now)
    changed = _bits(now) != _bits(before)
    count, bitmap = int(np.count_nonzero(changed)), (now.size + 7) // 8
    if not count:
        return "all", 0, b""
    if count * now.itemsize + min(count, bitmap) >= now.nbytes:
        return "all", count, _bytes(now)
    places = np.flatnonzero(changed)
    gaps = np.diff(places, prepend=-1) - 1
    width = next((width for width in GAPS if gaps.max() <= np.iinfo(width).max), None)
    positions: Positions = "bitmap" if width is None or bitmap <= count * np.dtype(width).itemsize else width
    written = np.packbits(changed) if positions == "bitmap" else gaps.astype(f"<{positions}")
    if written.nbytes + count * now.itemsize >= now.nbytes:
        return "all", count, _bytes(now)
    return positions, count, written.tobytes() + now[places].tobytes()


def _bytes(flat: np.ndarray) -> memoryview:
    """The tensor's own memory."""
    return flat.view(np.uint8).data


def _decode_tensor(tensor: _Tensor, frame: Frame, before: np.ndarray | None) -> np.ndarray:
    """Raises ValueError where the frame cannot be of this tensor, or of this tensor as it was."""
    if tensor.dtype not in DTYPES:
        raise ValueError(f"expected {' or '.join(DTYPES)}, found {tensor.dtype[:20]!r}")
    if tensor.positions == "all":
        flat = np.frombuffer(frame, tensor.dtype)
    else:
        if before is None or before.dtype != tensor.dtype or before.shape != tensor.shape:
            raise ValueError("its changes are of another tensor")
        flat = _changed(tensor, frame, _flat(before).copy())
    if zlib.crc32(_bytes(flat)) != tensor.crc32:
        raise ValueError("its checksum is wrong")
    return flat.reshape(tensor.shape)


def _changed(tensor: _Tensor, frame: Frame, flat: np.ndarray) -> np.ndarray:
    """`flat` with the frame's values at the frame's positions."""
    at = len(frame) - tensor.count * flat.itemsize
    if at < 0:
        raise ValueError("its frame is too short")
    if tensor.positions == "bitmap":
        places = np.flatnonzero(np.unpackbits(np.frombuffer(frame[:at], np.uint8)))
    else:
        places = np.cumsum(np.frombuffer(frame[:at], f"<{tensor.positions}").astype(np.int64) + 1) - 1
    if len(places) != tensor.count or (len(places) and places[-1] >= flat.size):
        raise ValueError("it has other positions than values")
    flat[places] = np.frombuffer(frame[at:], flat.dtype)
    return flat
