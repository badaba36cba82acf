"""Frames, and everything that can be wrong with them."""

import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.wire import assert_same, of_protocol, trajectory
from tsd.errors import FrameError, ProtocolError
from tsd.transport.codec import HEAD_BYTES, PROTOCOL, decode, encode, seal
from tsd.types import Trajectory


def test_a_frame_gives_back_what_was_put_in_bit_for_bit() -> None:
    sent = trajectory()
    found = decode(encode(sent), Trajectory)
    assert_same(found, sent)
    assert found.version == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[:-1],
        lambda frame: frame[1:],
        lambda frame: frame + b"\x00",
        lambda frame: b"",
        lambda frame: b"\xc1" * len(frame),
        lambda frame: frame[:40] + bytes([frame[40] ^ 1]) + frame[41:],
        lambda frame: frame.replace(b"tokens", b"tokenz"),
        lambda frame: seal(msgspec.msgpack.encode({"id": "t"})),
        lambda frame: seal(msgspec.msgpack.encode([1, 2, 3])),
        lambda frame: seal(frame[HEAD_BYTES:].replace(b"tokens", b"tokenz")),
        lambda frame: seal(frame[HEAD_BYTES:].replace(b"<i4", b"<f8")),
        lambda frame: seal(frame[HEAD_BYTES:].replace(b"<i4", b"|O0")),
    ],
)
def test_a_damaged_frame_is_a_frame_error(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FrameError, match=r"expected a Trajectory frame"):
        decode(damage(encode(trajectory())), Trajectory)


def test_a_buffer_that_is_no_whole_number_of_items_is_a_frame_error() -> None:
    frame = encode(trajectory(tokens=np.array([3, 4, 5], np.int32)))
    data = np.array([3, 4, 5], np.int32).tobytes()
    shorter = seal(frame[HEAD_BYTES:].replace(b"\xc4\x0c" + data, b"\xc4\x0b" + data[:-1]))
    assert len(shorter) == len(frame) - 1
    with pytest.raises(FrameError, match="multiple of element size"):
        decode(shorter, Trajectory)


def test_a_frame_past_the_limit_is_refused_unread() -> None:
    frame = encode(trajectory())
    assert decode(frame, Trajectory, max_bytes=len(frame)).id == "t-0"
    with pytest.raises(FrameError, match=rf"at most {len(frame) - 1} bytes, found {len(frame)}"):
        decode(frame, Trajectory, max_bytes=len(frame) - 1)


def test_a_whole_frame_of_another_protocol_is_refused_with_both_numbers() -> None:
    frame = encode(trajectory())
    assert of_protocol(PROTOCOL, frame) == frame
    with pytest.raises(ProtocolError, match=rf"expected a frame of tsd's protocol {PROTOCOL}, found protocol 99$"):
        decode(of_protocol(99, frame), Trajectory)


def test_a_frame_from_before_protocols_had_numbers_is_refused_as_one_of_another() -> None:
    content = encode(trajectory())[HEAD_BYTES:]
    with pytest.raises(ProtocolError, match=r"found protocol (12[89]|1[3-9]\d|2\d\d)$"):
        decode(zlib.crc32(content).to_bytes(4, "little") + content, Trajectory)


def test_arrays_of_other_types_do_not_leave_or_arrive() -> None:
    with pytest.raises(FrameError, match=r"expected an array of <f4 or <i4, found '<f8'"):
        decode(encode(trajectory(values=np.zeros(3))), Trajectory)
    with pytest.raises(NotImplementedError, match="no wire form for object"):
        encode(trajectory(group=object()))


def test_damaged_frames_of_any_kind_do_nothing_but_be_dropped() -> None:
    """A few of those that `tools/fuzz` makes by the million."""
    fuzz = Path(__file__).parent.parent / "tools" / "fuzz"
    done = subprocess.run([sys.executable, str(fuzz), "5000", "3"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5,000 frames in ")
