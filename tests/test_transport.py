"""Frames, trajectories and weights between two ends of real sockets, and everything that can be wrong with them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio

from tsd.errors import FrameError, TransportError, WeightsError
from tsd.transport.addresses import Addresses
from tsd.transport.codec import decode, encode
from tsd.transport.trajectories import TrajectoryReceiver, TrajectorySender
from tsd.transport.weights import WeightPublisher, WeightSubscriber, decode_update, encode_update
from tsd.types import Grade, Trajectory, WeightUpdate

PATIENCE_S = 10.0
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
        rewards=np.array([0.25, 0.25], np.float32),
        grade=Grade(0.25, exact=False, well_formed=True),
        num_generated=41,
    )
    return msgspec.structs.replace(whole, **changes)


def weights(version: int, seed: int = 0) -> WeightUpdate:
    rng = np.random.default_rng(seed + version)
    shapes = {"layer.weight": (3, 4), "layer.bias": (4,), "scale": ()}
    return WeightUpdate(version, {name: np.array(rng.normal(size=shape), "<f4") for name, shape in shapes.items()})


def assert_same(found: Trajectory | WeightUpdate, sent: Trajectory | WeightUpdate) -> None:
    assert msgspec.msgpack.encode(found, enc_hook=_listed) == msgspec.msgpack.encode(sent, enc_hook=_listed)


def _listed(array: object) -> object:
    assert isinstance(array, np.ndarray)
    return [str(array.dtype), array.shape, array.tobytes()]


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
        lambda frame: msgspec.msgpack.encode({"id": "t"}),
        lambda frame: msgspec.msgpack.encode([1, 2, 3]),
        lambda frame: frame.replace(b"tokens", b"tokenz"),
        lambda frame: frame.replace(b"<i4", b"<f8"),
        lambda frame: frame.replace(b"<i4", b"|O0"),
    ],
)
def test_a_damaged_frame_is_a_frame_error(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FrameError, match=r"expected a Trajectory frame"):
        decode(damage(encode(trajectory())), Trajectory)


def test_a_buffer_that_is_no_whole_number_of_items_is_a_frame_error() -> None:
    frame = encode(trajectory(tokens=np.array([3, 4, 5], np.int32)))
    data = np.array([3, 4, 5], np.int32).tobytes()
    shorter = frame.replace(b"\xc4\x0c" + data, b"\xc4\x0b" + data[:-1])
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


# Trajectories


@pytest.fixture
def addresses(tmp_path: Path) -> Addresses:
    return Addresses(tmp_path)


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    with zmq.asyncio.Context() as context:
        yield context


async def test_trajectories_arrive_whole_and_in_order(context: zmq.asyncio.Context, addresses: Addresses) -> None:
    with (
        TrajectorySender(context, addresses.trajectories, queue=4) as sender,
        TrajectoryReceiver(context, addresses.trajectories, queue=4) as receiver,
    ):
        sent = [trajectory(f"t{i}") for i in range(20)]
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send_all(sender, sent, PATIENCE_S))
            found = [await receiver.receive(PATIENCE_S) for _ in sent]
            await sending
    for one, other in zip(found, sent, strict=True):
        assert_same(one, other)


async def send_all(sender: TrajectorySender, trajectories: list[Trajectory], timeout_s: float) -> None:
    for one in trajectories:
        await sender.send(one, timeout_s)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": np.zeros(2, np.float32)}, "trajectory t-0: 2 logprobs for 3 tokens"),
        ({"values": np.zeros(4, np.float32)}, "trajectory t-0: 4 values for 3 tokens"),
        ({"versions": np.zeros(0, np.int32)}, "trajectory t-0: 0 versions for 3 tokens"),
        ({"prompt": np.zeros(0, np.int32)}, "no prompt or no tokens"),
        ({"visits": np.zeros(3, np.int32)}, "trajectory t-0: 3 visits for 2 steps"),
        ({"lengths": np.array([2, 2], np.int32)}, "its steps have other tokens than it has"),
        ({"lengths": np.array([3, 0], np.int32)}, "its steps have other tokens than it has"),
        ({"parents": np.array([-1, 1], np.int32)}, "a step follows one that does not come before it"),
        ({"parents": np.array([-2, 0], np.int32)}, "a step follows one that does not come before it"),
        ({"q": np.array([0, np.nan], np.float32)}, "not finite"),
        ({"values": np.array([0, np.nan, 0], np.float32)}, "not finite"),
        ({"logprobs": np.array([0, -np.inf, 0], np.float32)}, "not finite"),
        ({"grade": Grade(float("nan"), exact=False, well_formed=False)}, "not finite"),
    ],
)
async def test_what_no_engine_gives_is_refused_and_the_next_one_arrives(
    context: zmq.asyncio.Context, addresses: Addresses, changes: dict[str, Any], message: str
) -> None:
    with (
        TrajectorySender(context, addresses.trajectories, queue=4) as sender,
        TrajectoryReceiver(context, addresses.trajectories, queue=4) as receiver,
    ):
        await sender.send(trajectory(**changes), PATIENCE_S)
        await sender.send(trajectory("next"), PATIENCE_S)
        with pytest.raises(FrameError, match=message):
            await receiver.receive(PATIENCE_S)
        assert (await receiver.receive(PATIENCE_S)).sender == "next"


async def test_both_ends_name_what_they_waited_for_at_the_deadline(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with TrajectorySender(context, addresses.trajectories, queue=1) as sender:
        # Nobody listens: one is queued, then nothing is taken.
        with pytest.raises(TransportError, match=r"generator 3 waits for the trainer: took nothing for 0\.05 s"):
            await send_all(sender, [trajectory()] * 10, SOON_S)
        with (
            TrajectoryReceiver(context, f"{addresses.trajectories}-of-nobody", queue=1) as receiver,
            pytest.raises(TransportError, match=r"trainer waits for trajectories: none for 0\.05 s"),
        ):
            await receiver.receive(SOON_S)


async def test_a_full_queue_makes_the_generator_wait(context: zmq.asyncio.Context, addresses: Addresses) -> None:
    large = trajectory("large", group="g" * 1_000_000)
    with (
        TrajectorySender(context, addresses.trajectories, queue=1) as sender,
        TrajectoryReceiver(context, addresses.trajectories, queue=1) as receiver,
    ):
        with pytest.raises(TransportError, match="took nothing"):
            await send_all(sender, [large] * 10, SOON_S)
        assert_same(await receiver.receive(PATIENCE_S), large)


# Weights


@pytest.fixture
async def publisher(context: zmq.asyncio.Context, addresses: Addresses) -> AsyncIterator[WeightPublisher]:
    """Serves snapshots."""
    with WeightPublisher(context, addresses.weights, addresses.snapshots) as publisher:
        serving = asyncio.create_task(publisher.serve())
        yield publisher
        serving.cancel()


@pytest.fixture
def subscriber(
    context: zmq.asyncio.Context, addresses: Addresses, publisher: WeightPublisher
) -> Iterator[WeightSubscriber]:
    with WeightSubscriber(context, addresses.weights, addresses.snapshots) as subscriber:
        yield subscriber


async def hear(publisher: WeightPublisher, subscriber: WeightSubscriber) -> None:
    """Publishes version 3 until it is heard: nothing is sent to a subscription that has not yet come in."""
    heard = asyncio.create_task(subscriber.newest(PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S):
        while not heard.done():
            await publisher.publish(weights(3))
            await asyncio.wait({heard}, timeout=0.01)
    assert_same(await heard, weights(3))


async def test_who_joins_late_gets_the_current_weights_and_then_every_new_version(
    publisher: WeightPublisher, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    await publisher.publish(weights(1))
    await publisher.publish(weights(2))
    with WeightSubscriber(context, addresses.weights, addresses.snapshots) as late:
        assert_same(await late.snapshot(PATIENCE_S), weights(2))
        await hear(publisher, late)
        await publisher.publish(weights(4))
        async with asyncio.timeout(PATIENCE_S):
            # News of version 3 may still have been under way.
            while (update := await late.newest(PATIENCE_S)).version != 4:
                pass
        assert_same(update, weights(4))


async def test_who_was_busy_for_many_versions_gets_the_newest_alone(
    publisher: WeightPublisher, subscriber: WeightSubscriber
) -> None:
    await hear(publisher, subscriber)
    for version in range(4, 24):
        await publisher.publish(weights(version))
    async with asyncio.timeout(PATIENCE_S):
        assert_same(await subscriber.newest(PATIENCE_S), weights(23))


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
        WeightSubscriber(context, addresses.weights, addresses.snapshots) as subscriber,
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
