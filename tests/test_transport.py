"""Frames, trajectories and weights between two ends of real sockets, and everything that can be wrong with them."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio

from tests.wire import PATIENCE_S, SOON_S, assert_same, trajectory, weights
from tsd.errors import FrameError, TransportError, WeightsError
from tsd.transport.addresses import Addresses
from tsd.transport.codec import decode, encode, seal
from tsd.transport.weights import WeightPublisher, WeightSubscriber, decode_update, encode_update
from tsd.types import Trajectory

# Frames


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
        lambda frame: seal(frame[4:].replace(b"tokens", b"tokenz")),
        lambda frame: seal(frame[4:].replace(b"<i4", b"<f8")),
        lambda frame: seal(frame[4:].replace(b"<i4", b"|O0")),
    ],
)
def test_a_damaged_frame_is_a_frame_error(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FrameError, match=r"expected a Trajectory frame"):
        decode(damage(encode(trajectory())), Trajectory)


def test_a_buffer_that_is_no_whole_number_of_items_is_a_frame_error() -> None:
    frame = encode(trajectory(tokens=np.array([3, 4, 5], np.int32)))
    data = np.array([3, 4, 5], np.int32).tobytes()
    shorter = seal(frame[4:].replace(b"\xc4\x0c" + data, b"\xc4\x0b" + data[:-1]))
    assert len(shorter) == len(frame) - 1
    with pytest.raises(FrameError, match="multiple of element size"):
        decode(shorter, Trajectory)


def test_a_frame_past_the_limit_is_refused_unread() -> None:
    frame = encode(trajectory())
    assert decode(frame, Trajectory, max_bytes=len(frame)).id == "t-0"
    with pytest.raises(FrameError, match=rf"at most {len(frame) - 1} bytes, found {len(frame)}"):
        decode(frame, Trajectory, max_bytes=len(frame) - 1)


def test_arrays_of_other_types_do_not_leave_or_arrive() -> None:
    with pytest.raises(FrameError, match=r"expected an array of <f4 or <i4, found '<f8'"):
        decode(encode(trajectory(values=np.zeros(3))), Trajectory)
    with pytest.raises(NotImplementedError, match="no wire form for object"):
        encode(trajectory(group=object()))


# Weights


@pytest.fixture
async def publisher(context: zmq.asyncio.Context, addresses: Addresses) -> AsyncIterator[WeightPublisher]:
    """Serves snapshots."""
    with WeightPublisher(context, addresses.snapshots) as publisher:
        serving = asyncio.create_task(publisher.serve())
        yield publisher
        serving.cancel()


@pytest.fixture
def subscriber(
    context: zmq.asyncio.Context, addresses: Addresses, publisher: WeightPublisher
) -> Iterator[WeightSubscriber]:
    with WeightSubscriber(context, addresses.snapshots) as subscriber:
        yield subscriber


async def test_who_asks_gets_the_current_weights_whenever_it_joins(
    publisher: WeightPublisher, subscriber: WeightSubscriber, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    for version in range(1, 9):
        await publisher.publish(weights(version))
    assert_same(await subscriber.snapshot(PATIENCE_S), weights(8))
    await publisher.publish(weights(9))
    with WeightSubscriber(context, addresses.snapshots) as late:
        for one in (late, subscriber):
            assert_same(await one.snapshot(PATIENCE_S), weights(9))


async def test_a_question_that_went_down_with_a_trainer_is_asked_of_the_next_one(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with WeightSubscriber(context, addresses.snapshots, ask_again_s=0.2) as subscriber:
        asking = asyncio.create_task(subscriber.snapshot(PATIENCE_S))
        with context.socket(zmq.ROUTER) as dying:
            dying.bind(addresses.snapshots)
            await dying.recv_multipart()
        with WeightPublisher(context, addresses.snapshots) as publisher:
            await publisher.publish(weights(3))
            serving = asyncio.create_task(publisher.serve())
            assert_same(await asking, weights(3))
            await publisher.publish(weights(4))
            assert_same(await subscriber.snapshot(PATIENCE_S), weights(4))  # not a late answer to an earlier question
            serving.cancel()


async def test_damaged_weights_on_the_way_are_refused(
    publisher: WeightPublisher, subscriber: WeightSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsd.transport.weights.encode_update", lambda update: [*encode_update(update)[:-1], b"bad!"])
    await publisher.publish(weights(1))
    with pytest.raises(WeightsError, match="weights 1: scale is damaged"):
        await subscriber.snapshot(PATIENCE_S)


async def test_no_snapshot_by_the_deadline_is_an_error_that_names_it(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with (
        WeightSubscriber(context, addresses.snapshots) as subscriber,
        pytest.raises(TransportError, match=r"generator waits for a weight snapshot: none for 0\.05 s"),
    ):
        await subscriber.snapshot(SOON_S)


def test_weights_survive_the_wire_bit_for_bit_whatever_their_shape_and_layout() -> None:
    update = weights(9)
    update.tensors["transposed"] = np.arange(6, dtype="<f4").reshape(2, 3).T
    found = decode_update(encode_update(update))
    assert found.version == 9
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: tensor.shape for name, tensor in update.tensors.items()
    }
    for name, tensor in update.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda frames: [frames[0], _flip(frames[1]), *frames[2:]], r"weights 5: layer\.weight is damaged"),
        (lambda frames: [*frames[:2], frames[2][:-4], *frames[3:]], r"weights 5: layer\.bias is damaged"),
        (lambda frames: frames[:-1], "weights 5: expected 3 tensors, found 2"),
        (lambda frames: [*frames, b""], "weights 5: expected 3 tensors, found 4"),
        (lambda frames: [frames[0], frames[2], frames[1], frames[3]], "damaged"),
        (lambda frames: [frames[0][:-1], *frames[1:]], "damaged header"),
    ],
)
def test_damaged_weights_are_refused(damage: Callable[[list[bytes]], list[bytes]], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        decode_update(damage(encode_update(weights(5))))


def _flip(frame: bytes) -> bytes:
    """The frame with one bit changed."""
    return bytes([frame[0] ^ 1]) + frame[1:]


def test_damaged_frames_of_any_kind_do_nothing_but_be_dropped() -> None:
    """A few of those that `tools/fuzz` makes by the million."""
    fuzz = Path(__file__).parent.parent / "tools" / "fuzz"
    done = subprocess.run([sys.executable, str(fuzz), "5000", "3"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5,000 frames in ")
