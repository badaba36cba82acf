"""Weights as frames: whole, or as a lossless delta from the version before; and which of the two a generator gets.

A delta holds, for each tensor that changed, where it changed and the values now there, bit for bit, a block of elements
after the other. A block is small enough for a core's cache, so that a tensor is compared, checked and written in one
pass over memory. What would be larger than the tensor is the tensor, whole. Knows nothing about sockets and trainers.

Few bfloat16 values change in an update of a small learning rate, and nearly all float32 ones.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import msgspec
import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from tsd.errors import FrameError, WeightsError
from tsd.transport.codec import decode, encode
from tsd.transport.tensor_file import DTYPES, layout_of
from tsd.types import WeightUpdate

Frame = bytes | memoryview
MAX_DELTAS = 16
"""Kept at most: who is further behind gets the whole."""
BLOCK = 2**16
"""Elements of a block; of a tensor's last one, what is left. A place in it fits into two bytes."""
COUNT, PLACE = np.dtype("<u4"), np.dtype("<u2")
Form = Literal["same", "places", "bitmap", "all"]
"""How a block is written: not at all; as its changed places, or a bit for each element, and then the values there; or
as all of its values."""


class TensorHeader(msgspec.Struct, frozen=True):
    """What the frame beside it holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: int
    """Digest of the whole tensor as it should be now."""
    count: int
    """Elements changed."""
    is_whole: bool
    """Whether it is every element's value; else how many elements of each block changed, then the blocks."""

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


class Header(msgspec.Struct, frozen=True):
    """The first frame of a part."""

    version: int
    base: int | None
    """The version that the changes are from; None where every tensor is whole."""
    tensors: tuple[TensorHeader, ...]


@dataclass(frozen=True)
class Encoded:
    """A header and a frame for each of its tensors."""

    version: int
    base: int | None
    frames: list[Frame]
    num_changed: int
    """Elements that the update changes; all of them where it is whole."""
    digests: Mapping[str, int]
    """What each tensor of the update has, those among them that are not here because they have not changed."""

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.frames))


@dataclass(frozen=True)
class History:
    """What a trainer can give out: its newest weights whole, and the deltas that lead to them."""

    update: WeightUpdate
    whole: Encoded
    num_changed: int | None = None
    """Elements that differ from the version before; None for the first."""
    deltas: tuple[Encoded, ...] = ()
    """Each from where the one before it leads to, the last one to `update`. Together no larger than `whole`."""

    @classmethod
    def begin(cls, update: WeightUpdate) -> Self:
        """Touches every byte, as `then` does: not for the event loop. Whole tensors are not copied."""
        return cls(update, encode_update(update))

    def then(self, update: WeightUpdate) -> "History":
        """With the next version, and without the oldest deltas that are too much."""
        newest = encode_update(update, self.update)
        whole = encode_update(update, digests=newest.digests)
        deltas = [*self.deltas, newest]
        while len(deltas) > MAX_DELTAS or sum(delta.num_bytes for delta in deltas) >= whole.num_bytes:
            del deltas[0]
        return History(update, whole, newest.num_changed, tuple(deltas))

    @property
    def checksum(self) -> int:
        """What the newest weights have."""
        return checksum(self.update, self.whole.digests)

    def since(self, version: int | None) -> Sequence[Encoded]:
        """What leads from a version to the newest: deltas where they are there, else the newest whole."""
        bases = [delta.base for delta in self.deltas]
        return self.deltas[bases.index(version) :] if version in bases else (self.whole,)

    @property
    def newest(self) -> Encoded:
        """What leads to it from the version before."""
        return self.deltas[-1] if self.deltas else self.whole


def encode_update(
    update: WeightUpdate, base: WeightUpdate | None = None, digests: Mapping[str, int] | None = None
) -> Encoded:
    """A whole update, whose `digests` may be known; or what changed since `base`, which has tensors of the same names
    and shapes."""
    if base is None:
        found = [_whole(name, tensor, digests) for name, tensor in update.tensors.items()]
    else:
        assert layout_of(base.tensors) == layout_of(update.tensors), "a delta is of one model's weights"
        found = [_changed(name, tensor, base.tensors[name]) for name, tensor in update.tensors.items()]
    sent = [(header, frame) for header, frame in found if header.count or base is None]
    header = Header(update.version, None if base is None else base.version, tuple(header for header, _ in sent))
    return Encoded(
        version=update.version,
        base=header.base,
        frames=[encode(header), *(frame for _, frame in sent)],
        num_changed=sum(one.count for one in header.tensors),
        digests={header.name: header.digest for header, _ in found},
    )


def decode_header(frames: Sequence[Frame]) -> Header:
    """What a part's frames are. Raises WeightsError where they cannot be that."""
    try:
        header = decode(bytes(frames[0]), Header)
    except (FrameError, IndexError) as error:
        raise WeightsError(f"a weight update has a damaged header: {error}") from None
    title = f"weights {header.version}"
    if len(frames) != 1 + len(header.tensors):
        raise WeightsError(f"{title}: expected {len(header.tensors)} tensors, found {len(frames) - 1}")
    for tensor, frame in zip(header.tensors, frames[1:], strict=True):
        if tensor.dtype not in DTYPES:
            raise WeightsError(f"{title}: expected {' or '.join(DTYPES)}, found {tensor.dtype[:20]!r}")
        num_bytes = tensor.size * np.dtype(tensor.dtype).itemsize
        if min(tensor.shape, default=0) < 0 or (tensor.is_whole and len(frame) != num_bytes):
            raise WeightsError(f"{title}: {tensor.name} is damaged: its frame has another size")
        if header.base is None and not tensor.is_whole:
            raise WeightsError(f"{title}: {tensor.name} is damaged: it should be whole")
    return header


def write_tensor(header: TensorHeader, frame: Frame, tensor: np.ndarray) -> None:
    """Makes of a tensor what a frame says, in its place. Raises ValueError where the frame cannot be of it; the tensor
    is of no use then. Its digest says whether it is right."""
    flat = _bits(tensor.reshape(-1))
    if header.is_whole:
        flat[:] = np.frombuffer(frame, flat.dtype)
        return
    data = np.frombuffer(frame, np.uint8)
    at = -(-flat.size // BLOCK) * COUNT.itemsize
    if len(data) < at:
        raise ValueError("its frame is too short")
    for count, block in zip(data[:at].view(COUNT).tolist(), _blocks(flat), strict=True):
        at += _write_block(count, data[at:], block)
    if at != len(data):
        raise ValueError("its frame is too long")


def digest(tensor: np.ndarray) -> int:
    """A digest of a tensor's bytes as they travel."""
    return xxh3_64_intdigest(_flat(tensor).view(np.uint8).data)


def checksum(update: WeightUpdate, digests: Mapping[str, int] | None = None) -> int:
    """A checksum of names, types, shapes and contents: the same at both ends, or something is wrong."""
    known, found = digests or {}, 0
    for name, tensor in sorted(update.tensors.items()):
        own = known[name] if name in known else digest(tensor)
        found = zlib.crc32(f"{name} {_flat(tensor).dtype.str} {tensor.shape} {own}".encode(), found)
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


def _blocks(flat: np.ndarray) -> Iterator[np.ndarray]:
    return (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))


def _form(count: int, size: int, itemsize: int) -> Form:
    """The smallest for so many changes in a block of that size."""
    if not count:
        return "same"
    places = min(count * PLACE.itemsize, (size + 7) // 8)
    if places + count * itemsize >= size * itemsize:
        return "all"
    return "places" if places == count * PLACE.itemsize else "bitmap"


def _whole(name: str, tensor: np.ndarray, digests: Mapping[str, int] | None) -> tuple[TensorHeader, Frame]:
    """The tensor's own memory, where it lies as it travels."""
    flat = _flat(tensor)
    known = digest(flat) if digests is None else digests[name]
    return TensorHeader(name, flat.dtype.str, tensor.shape, known, flat.size, True), flat.view(np.uint8).data


def _changed(name: str, tensor: np.ndarray, base: np.ndarray) -> tuple[TensorHeader, Frame]:
    """What changed in one pass over both, or the whole where that is no larger."""
    flat, seen = _flat(tensor), xxh3_64()
    now, before = _bits(flat), _bits(_flat(base))
    counts = np.zeros(-(-now.size // BLOCK), COUNT)
    # As much as there may be; what is not written to takes no memory.
    written, at = np.empty(counts.nbytes + now.nbytes, np.uint8), counts.nbytes
    for number, (new, old) in enumerate(zip(_blocks(now), _blocks(before), strict=True)):
        seen.update(new.view(np.uint8).data)
        changed = new != old
        counts[number] = count = int(np.count_nonzero(changed))
        for piece in _written(_form(count, new.size, new.itemsize), new, changed):
            written[at : at + piece.nbytes] = piece.view(np.uint8)
            at += piece.nbytes
    written[: counts.nbytes] = counts.view(np.uint8)
    is_whole = at >= now.nbytes
    header = TensorHeader(name, flat.dtype.str, tensor.shape, seen.intdigest(), int(counts.sum()), is_whole)
    return header, (flat.view(np.uint8) if is_whole else written[:at]).data


def _written(form: Form, new: np.ndarray, changed: np.ndarray) -> tuple[np.ndarray, ...]:
    """A block's places and values."""
    match form:
        case "same":
            return ()
        case "all":
            return (new,)
        case "bitmap":
            return np.packbits(changed), new.take(np.flatnonzero(changed))
        case "places":
            places = np.flatnonzero(changed)
            return places.astype(PLACE), new.take(places)


def _write_block(count: int, data: np.ndarray, block: np.ndarray) -> int:
    """Writes a block's changes into it, from the beginning of `data`; how many bytes of it they were."""
    if count > block.size:
        raise ValueError("it has more changes than elements")
    form = _form(count, block.size, block.itemsize)
    at = {"same": 0, "all": 0, "bitmap": (block.size + 7) // 8, "places": count * PLACE.itemsize}[form]
    end = at + (block.size if form == "all" else count) * block.itemsize
    if end > len(data):
        raise ValueError("its frame is too short")
    values = data[at:end].view(block.dtype)
    if form == "all":
        block[:] = values
    elif form != "same":
        # Numpy finds what is set among truth values six times as quickly as among bytes, and indexes by intp.
        is_bitmap = form == "bitmap"
        places = np.flatnonzero(np.unpackbits(data[:at]).view(np.bool_)) if is_bitmap else data[:at].view(PLACE)
        places = places.astype(np.intp, copy=False)
        if len(places) != count or places.max() >= block.size:
            raise ValueError("it has other places than values")
        block[places] = values
    return end
