"""Trajectories between generators that die and trainers that are started again: each arrives once, in order."""

import asyncio
import errno
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.asyncio

from tests.support.launching import until
from tests.support.wire import PATIENCE_S, SOON_S, assert_same, trajectory
from tsd.errors import TransportError
from tsd.transport.addresses import Addresses
from tsd.transport.codec import decode
from tsd.transport.progress import Progress, ProgressPublisher, ProgressSubscriber
from tsd.transport.spool import Lane, leftovers
from tsd.transport.trajectories import Inbox, Outbox, Refused
from tsd.types import Grade, Trajectory


def progress(
    inbox: Inbox, life: str = "a", asked: int = 0, waiting: bool = False, **changes: dict[str, int]
) -> Progress:
    counts = {"received": inbox.received, "used": inbox.received, "saved": {}} | changes
    return Progress(life=life, version=0, asked=asked, waiting=waiting, **counts)


@contextmanager
def outbox(
    context: zmq.asyncio.Context, addresses: Addresses, own: Lane, left: Sequence[Lane] = (), credit: int = 100
) -> Iterator[Outbox]:
    """One that sends, to a trainer that has yet to say where it is."""
    with Outbox(context, addresses.trajectories, 4, own, left, credit) as box:
        sending = asyncio.create_task(box.run())
        yield box
        sending.cancel()


@contextmanager
def inbox(
    context: zmq.asyncio.Context, addresses: Addresses, received: dict[str, int] | None = None
) -> Iterator[Inbox]:
    with Inbox(context, addresses.trajectories, 4, received or {}, vocabulary=64) as box:
        yield box


async def take(box: Inbox, count: int) -> list[str]:
    found = [await box.next(PATIENCE_S) for _ in range(count)]
    return [f"{one.sender}-{one.serial}" for one in found]


async def test_trajectories_arrive_whole_and_in_order(context: zmq.asyncio.Context, addresses: Addresses) -> None:
    own = Lane(Path(addresses.base), "0-a")
    with outbox(context, addresses, own) as sender, inbox(context, addresses) as receiver:
        sender.heard(progress(receiver))
        await sender.put([trajectory(group=f"g{i}") for i in range(70)], PATIENCE_S)
        for i in range(70):
            assert_same(received(await receiver.next(PATIENCE_S)), trajectory("0-a", serial=i, group=f"g{i}"))
    assert (receiver.num_duplicates, receiver.num_early, receiver.num_damaged) == (0, 0, 0)


def received(one: Trajectory | Refused) -> Trajectory:
    assert isinstance(one, Trajectory)
    return one


async def test_nothing_is_sent_before_the_trainer_has_said_where_it_is(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    own = Lane(Path(addresses.base), "0-a")
    with outbox(context, addresses, own) as sender, inbox(context, addresses, {"0-a": 2}) as receiver:
        await sender.put([trajectory() for _ in range(4)], PATIENCE_S)
        with pytest.raises(TransportError, match=r"trainer waits for trajectories: none for 0\.05 s"):
            await receiver.next(SOON_S)
        sender.heard(progress(receiver))
        assert await take(receiver, 2) == ["0-a-2", "0-a-3"]


async def test_a_trainer_started_again_gets_what_its_checkpoint_does_not_hold(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    own = Lane(Path(addresses.base), "0-a")
    with outbox(context, addresses, own) as sender:
        with inbox(context, addresses) as first:
            sender.heard(progress(first))
            await sender.put([trajectory() for _ in range(50)], PATIENCE_S)
            await take(first, 40)
            sender.heard(progress(first, saved={"0-a": 35}))
        # What was under way to the first may come to the second, before it is due or once more; and what is sent
        # while the first one's end has not been noticed goes nowhere.
        with inbox(context, addresses, {"0-a": 35}) as second:
            taking = asyncio.create_task(take(second, 15))
            while not taking.done():
                sender.heard(progress(second, life="b", waiting=True, saved={"0-a": 35}))
                await asyncio.wait({taking}, timeout=0.1)
            assert await taking == [f"0-a-{serial}" for serial in range(35, 50)]
            assert second.received == {"0-a": 50}


async def test_what_a_waiting_trainer_does_not_get_is_sent_again(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    own = Lane(Path(addresses.base), "0-a")
    with outbox(context, addresses, own) as sender, inbox(context, addresses) as receiver:
        sender.heard(progress(receiver))
        await sender.put([trajectory() for _ in range(3)], PATIENCE_S)
        assert await take(receiver, 3) == ["0-a-0", "0-a-1", "0-a-2"]
        receiver.received["0-a"] = 1  # as if two of them had been lost on the way
        for _ in range(2):
            sender.heard(progress(receiver, waiting=True))
        sender.heard(progress(receiver))  # not waiting: it has enough to do
        with pytest.raises(TransportError):
            await receiver.next(SOON_S)
        for _ in range(3):
            sender.heard(progress(receiver, waiting=True))
        assert await take(receiver, 2) == ["0-a-1", "0-a-2"]


async def test_what_a_killed_generator_had_finished_is_sent_by_the_next_one(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with inbox(context, addresses) as receiver:
        with outbox(context, addresses, Lane(Path(addresses.base), "1-a")) as killed:
            await killed.put([trajectory() for _ in range(40)], PATIENCE_S)

        def look() -> tuple[list[Lane], list[Lane]]:
            with (Path(addresses.base) / "1-a.00000001").open("ab") as file:
                file.write(b"half a frame")
            return leftovers(Path(addresses.base), 0, 2), leftovers(Path(addresses.base), 1, 2)

        nothing, left = await asyncio.to_thread(look)
        assert nothing == []
        assert [(lane.sender, lane.num_saved, lane.num_appended) for lane in left] == [("1-a", 0, 40)]
        with outbox(context, addresses, Lane(Path(addresses.base), "1-b"), left) as born:
            await born.put([trajectory()], PATIENCE_S)
            born.heard(progress(receiver))
            assert await take(receiver, 41) == [*(f"1-a-{serial}" for serial in range(40)), "1-b-0"]
            born.heard(progress(receiver, saved={"1-a": 40}))
            await asyncio.to_thread(until, lambda: left[0].num_saved == 40, "what is saved to be let go of", PATIENCE_S)
    names = await asyncio.to_thread(lambda: [path.name for path in Path(addresses.base).glob("1-*")])
    assert names == ["1-b.00000000"]


async def test_what_is_damaged_on_the_way_is_dropped_and_sent_again_when_asked(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    own = Lane(Path(addresses.base), "0-a")

    def fill() -> list[bytes]:
        for serial in range(6):
            own.append(trajectory("0-a", serial=serial))
        return [own.frame(serial) for serial in range(6)]

    frames = await asyncio.to_thread(fill)
    with inbox(context, addresses) as receiver, context.socket(zmq.PUSH) as wire:
        wire.connect(addresses.trajectories)
        for frame in (frames[0], frames[1][:-9], frames[2], frames[0], b"", frames[1]):
            await wire.send(frame)
        assert await take(receiver, 2) == ["0-a-0", "0-a-1"]
        assert (receiver.num_damaged, receiver.num_early, receiver.num_duplicates) == (2, 1, 1)
        assert receiver.missing
        with outbox(context, addresses, own) as sender:
            sender.heard(progress(receiver, asked=1))
            assert await take(receiver, 4) == [f"0-a-{serial}" for serial in range(2, 6)]
            receiver.received["0-a"] = 4
            sender.heard(progress(receiver, asked=1))  # nothing new was asked
            with pytest.raises(TransportError, match="none for"):
                await receiver.next(SOON_S)
            sender.heard(progress(receiver, asked=2))
            assert await take(receiver, 2) == ["0-a-4", "0-a-5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": np.zeros(2, np.float32)}, "trajectory 0-a-0: 2 logprobs for 3 tokens"),
        ({"values": np.zeros(4, np.float32)}, "trajectory 0-a-0: 4 values for 3 tokens"),
        ({"versions": np.zeros(0, np.int32)}, "trajectory 0-a-0: 0 versions for 3 tokens"),
        ({"prompt": np.zeros(0, np.int32)}, "no prompt or no tokens"),
        ({"tokens": np.array([3, -4, 5], np.int32)}, "a token id or count is negative"),
        ({"tokens": np.array([3, 99, 5], np.int32)}, "token 99, but the model has 64"),
        ({"tokens": np.array([3, 4, 5], np.float32)}, "expected tokens as int32, found float32"),
        ({"logprobs": np.array([-1, -1, -1], np.int32)}, "expected logprobs as float32, found int32"),
        ({"visits": np.zeros(3, np.int32)}, "trajectory 0-a-0: 3 visits for 2 steps"),
        ({"lengths": np.array([2, 2], np.int32)}, "its steps have other tokens than it has"),
        ({"lengths": np.array([3, 0], np.int32)}, "its steps have other tokens than it has"),
        ({"parents": np.array([-1, 1], np.int32)}, "a step follows one that does not come before it"),
        ({"parents": np.array([-2, 0], np.int32)}, "a step follows one that does not come before it"),
        ({"q": np.array([0, np.nan], np.float32)}, "not finite"),
        ({"values": np.array([0, np.nan, 0], np.float32)}, "not finite"),
        ({"logprobs": np.array([0, -np.inf, 0], np.float32)}, "not finite"),
        ({"logprobs": np.array([0, 0.5, 0], np.float32)}, r"a logprob of 0\.5 is above 0"),
        ({"grade": Grade(float("nan"), exact=False, well_formed=False)}, "not finite"),
        ({"grade": Grade(0.0, exact=False, well_formed=False, parts={"x": math.inf})}, "not finite"),
    ],
)
async def test_what_no_engine_gives_is_refused_and_the_next_one_arrives(
    context: zmq.asyncio.Context, addresses: Addresses, changes: dict[str, Any], message: str
) -> None:
    own = Lane(Path(addresses.base), "0-a")
    with outbox(context, addresses, own) as sender, inbox(context, addresses) as receiver:
        sender.heard(progress(receiver))
        await sender.put([trajectory(**changes), trajectory()], PATIENCE_S)
        refused = await receiver.next(PATIENCE_S)
        assert isinstance(refused, Refused)
        assert re.search(message, refused.reason)
        assert await take(receiver, 1) == ["0-a-1"]


async def test_a_generator_stops_when_too_much_is_out_and_goes_on_when_some_is_used(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    own = Lane(Path(addresses.base), "0-a")
    with outbox(context, addresses, own, credit=3) as sender, inbox(context, addresses) as receiver:
        sender.heard(progress(receiver))
        await sender.put([trajectory() for _ in range(4)], PATIENCE_S)
        late = r"generator 0-a waits for the trainer: 4 trajectories are out, and none was used for 0\.05 s"
        with pytest.raises(TransportError, match=late):
            await sender.put([trajectory()], SOON_S)
        waiting = asyncio.create_task(sender.put([trajectory()], PATIENCE_S))
        assert await take(receiver, 4) == [f"0-a-{serial}" for serial in range(4)]
        sender.heard(progress(receiver, used={"0-a": 1}))
        await asyncio.sleep(0)
        assert not waiting.done()
        sender.heard(progress(receiver, used={"0-a": 2}))
        await waiting
        assert await take(receiver, 1) == ["0-a-4"]


async def test_a_full_disk_is_named_and_loses_nothing(context: zmq.asyncio.Context, addresses: Addresses) -> None:
    class FullLane(Lane):
        def append(self, trajectory: Trajectory) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with outbox(context, addresses, FullLane(Path(addresses.base), "0-a")) as sender:
        with pytest.raises(
            TransportError, match=r"cannot write the spool in .*No space left on device; free some space"
        ):
            await sender.put([trajectory()], PATIENCE_S)
        assert sender.own.num_appended == 0


def test_a_spool_lets_go_of_files_that_are_saved_and_reads_each_frame_from_any_life(tmp_path: Path) -> None:
    lane = Lane(tmp_path, "2-x")
    for serial in range(100):
        lane.append(trajectory("2-x", serial=serial, group=f"g{serial}"))
    lane.drop(70)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-x.00000002", "2-x.00000003"]
    (again,) = leftovers(tmp_path, 2, 8)
    assert (again.num_saved, again.num_appended) == (64, 100)
    assert decode(again.frame(99), Trajectory).group == "g99"
    again.drop(100)
    assert list(tmp_path.iterdir()) == []
    assert leftovers(tmp_path, 2, 8) == []


# Progress


async def test_generators_hear_the_newest_that_the_trainer_said_and_skip_what_is_none(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    said = [Progress(life="a", version=n, received={}, used={}, saved={}, asked=0) for n in range(3)]
    with (
        ProgressPublisher(context, addresses.progress) as speaker,
        ProgressSubscriber(context, addresses.progress) as listener,
    ):
        heard = asyncio.create_task(listener.newest(PATIENCE_S))
        while not heard.done():  # a subscription takes a moment to arrive
            await speaker.tell(said[0])
            await asyncio.wait({heard}, timeout=0.01)
        assert (await heard) == said[0]
        await speaker._socket.send(b"noise")
        for one in said[1:]:
            await speaker.tell(one)
        async with asyncio.timeout(PATIENCE_S):
            while await listener.newest(PATIENCE_S) != said[2]:
                pass
        with pytest.raises(TransportError, match=r"generator waits for the trainer: not a word for 0\.05 s"):
            await listener.newest(SOON_S)
