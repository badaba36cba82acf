"""Frames: a checksum, the protocol's number, then typed MessagePack with arrays as raw buffers. No pickle.

Checked and bounded on decode: what is damaged, of another version or of another type is a FrameError that says so.
"""

import zlib
from typing import Any, TypeVar

import msgspec
import numpy as np

from tsd.errors import FrameError, ProtocolError

T = TypeVar("T")

PROTOCOL = 3
"""Number of the protocol that tsd's processes speak, 1 to 127: to be raised when a message or its meaning changes.

Frames from before there was a number begin with a MessagePack map, which is 128 or more."""
CHECKSUM_BYTES = 4
HEAD_BYTES = CHECKSUM_BYTES + 1
DTYPES = frozenset({"<i4", "<f4"})
MAX_TRAJECTORY_BYTES = 4 * 2**20
MAX_BATCH_BYTES = 2**30
MAX_WEIGHT_FRAME_BYTES = 8 * 2**30


class _Array(msgspec.Struct, frozen=True, array_like=True):
    """A one-dimensional array on the wire."""

    dtype: str
    data: bytes


def encode(message: object) -> bytes:
    """Any of tsd's wire types as one frame."""
    return seal(msgspec.msgpack.encode(message, enc_hook=_encode_array))


def seal(content: bytes) -> bytes:
    """With its checksum before it: what was damaged on the way is not mistaken for something else that was sent."""
    number = bytes([PROTOCOL])
    return zlib.crc32(content, zlib.crc32(number)).to_bytes(CHECKSUM_BYTES, "little") + number + content


def decode(frame: bytes, kind: type[T], max_bytes: int = MAX_TRAJECTORY_BYTES) -> T:
    """One frame as the type it must be. Raises FrameError saying what is wrong with it.

    That is a ProtocolError where the frame is whole, but of another protocol than ours.
    """
    if len(frame) > max_bytes:
        raise FrameError(f"expected a frame of at most {max_bytes} bytes, found {len(frame)}")
    numbered = memoryview(frame)[CHECKSUM_BYTES:]
    if int.from_bytes(frame[:CHECKSUM_BYTES], "little") != zlib.crc32(numbered) or not numbered:
        raise FrameError(f"expected a {kind.__name__} frame: its checksum is wrong")
    if numbered[0] != PROTOCOL:
        raise ProtocolError(f"expected a frame of tsd's protocol {PROTOCOL}, found protocol {numbered[0]}")
    try:
        return msgspec.msgpack.decode(numbered[1:], type=kind, dec_hook=_decode_array)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # the last for lists in lists without end
        raise FrameError(f"expected a {kind.__name__} frame: {error}") from None


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _Array(value.dtype.newbyteorder("<").str, value.astype(value.dtype.newbyteorder("<")).tobytes())
    raise NotImplementedError(f"no wire form for {type(value).__name__}")


def _decode_array(kind: type, value: Any) -> Any:
    if kind is not np.ndarray:
        raise NotImplementedError(f"no wire form for {kind.__name__}")
    array = msgspec.convert(value, _Array)
    if array.dtype not in DTYPES:
        raise ValueError(f"expected an array of {' or '.join(sorted(DTYPES))}, found {array.dtype[:20]!r}")
    return np.frombuffer(array.data, np.dtype(array.dtype))
