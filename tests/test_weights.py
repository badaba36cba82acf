"""Weights between two ends of real sockets: deltas where they serve, the whole where not, and refusals."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio

from tests.support.tensors import changed, large
from tests.support.wire import HELLO, PATIENCE_S, SOON_S, assert_same, of_protocol, weights
from tsd.errors import ProtocolError, TransportError, WeightsError
from tsd.transport.addresses import Addresses
from tsd.transport.codec import PROTOCOL, decode, encode
from tsd.transport.hello import Hello
from tsd.transport.weights import MAX_QUESTION_BYTES, WeightPublisher, WeightSubscriber, _Answer
from tsd.types import WeightUpdate


@asynccontextmanager
async def serving(
    context: zmq.asyncio.Context, addresses: Addresses, life: str = "a", reports: list[str] | None = None
) -> AsyncIterator[WeightPublisher]:
    said: list[str] = [] if reports is None else reports
    with WeightPublisher(context, addresses.snapshots, HELLO, life, said.append) as publisher:
        task = asyncio.create_task(publisher.serve())
        yield publisher
        task.cancel()


@pytest.fixture
async def publisher(context: zmq.asyncio.Context, addresses: Addresses) -> AsyncIterator[WeightPublisher]:
    """Answers questions for weights until cancelled."""
    async with serving(context, addresses) as publisher:
        yield publisher


@pytest.fixture
def subscriber(
    context: zmq.asyncio.Context, addresses: Addresses, publisher: WeightPublisher
) -> Iterator[WeightSubscriber]:
    with WeightSubscriber(context, addresses.snapshots, HELLO) as subscriber:
        yield subscriber


async def test_who_asks_gets_the_current_weights_whenever_it_joins(
    publisher: WeightPublisher, subscriber: WeightSubscriber, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    for version in range(1, 9):
        await publisher.publish(weights(version))
    assert_same((await subscriber.fetch(PATIENCE_S)).update, weights(8))
    await publisher.publish(weights(9))
    with WeightSubscriber(context, addresses.snapshots, HELLO) as late:
        for one in (late, subscriber):
            assert_same((await one.fetch(PATIENCE_S)).update, weights(9))


@pytest.mark.parametrize("dtype", ["<f4", "<u2"])
async def test_who_follows_gets_what_changed_and_who_joins_late_the_whole(
    publisher: WeightPublisher,
    subscriber: WeightSubscriber,
    context: zmq.asyncio.Context,
    addresses: Addresses,
    dtype: str,
) -> None:
    update = large(dtype)
    await publisher.publish(update)
    whole = await subscriber.fetch(PATIENCE_S)
    assert not whole.is_delta
    for number in range(4):
        update = changed(update, 0.02, seed=number)
        await publisher.publish(update)
        fetched = await subscriber.fetch(PATIENCE_S)
        assert_same(fetched.update, update)
        assert fetched.is_delta
        assert fetched.num_bytes < whole.num_bytes / 10
        assert fetched.num_changed == pytest.approx(0.02 * whole.num_changed, rel=0.2)
    with WeightSubscriber(context, addresses.snapshots, HELLO) as late:
        fetched = await late.fetch(PATIENCE_S)
        assert_same(fetched.update, update)
        assert not fetched.is_delta


async def test_who_missed_a_few_versions_gets_their_deltas_and_who_missed_many_the_whole(
    publisher: WeightPublisher, subscriber: WeightSubscriber
) -> None:
    update = large("<u2")
    await publisher.publish(update)
    await subscriber.fetch(PATIENCE_S)
    for missed, is_delta in ((3, True), (40, False), (1, True)):
        for number in range(missed):
            update = changed(update, 0.05, seed=number)
            await publisher.publish(update)
        fetched = await subscriber.fetch(PATIENCE_S)
        assert_same(fetched.update, update)
        assert fetched.is_delta == is_delta


async def test_weights_of_which_most_changed_come_whole(
    publisher: WeightPublisher, subscriber: WeightSubscriber
) -> None:
    update = large("<f4")
    for _ in range(3):
        update = changed(update, 1.0)
        await publisher.publish(update)
        fetched = await subscriber.fetch(PATIENCE_S)
        assert_same(fetched.update, update)
        assert not fetched.is_delta


async def test_another_life_of_the_trainer_gives_the_whole_even_under_the_same_number(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    update = large("<u2", version=4)
    with WeightSubscriber(context, addresses.snapshots, HELLO, ask_again_s=0.2) as subscriber:
        async with serving(context, addresses) as first:
            await first.publish(update)
            await subscriber.fetch(PATIENCE_S)
        async with serving(context, addresses, life="b") as second:
            other = WeightUpdate(4, changed(update, 0.02).tensors)
            await second.publish(other)
            await second.publish(changed(other, 0.02))
            fetched = await subscriber.fetch(PATIENCE_S)
            assert_same(fetched.update, changed(other, 0.02))
            assert (fetched.is_delta, fetched.life) == (False, "b")


async def test_a_base_that_is_not_the_trainers_is_found_out_and_the_whole_asked_for(
    publisher: WeightPublisher, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    reports: list[str] = []
    update = large("<u2")
    await publisher.publish(update)
    with WeightSubscriber(context, addresses.snapshots, HELLO, report=reports.append) as subscriber:
        await subscriber.fetch(PATIENCE_S)
        for name in ("a", "unchanged"):
            own = subscriber._replica._file.tensors["a" if name == "a" else "c"]
            own ^= 2
            same = {} if name == "a" else {"c": update.tensors["c"]}
            update = changed(update, 0.02)
            update = WeightUpdate(update.version, update.tensors | same)
            await publisher.publish(update)
            fetched = await subscriber.fetch(PATIENCE_S)
            assert_same(fetched.update, update)
            assert not fetched.is_delta
    assert reports == [
        "weights 1: a is damaged: its checksum is wrong; asks for the whole weights",
        "weights 2: c is damaged: its checksum is wrong; asks for the whole weights",
    ]


async def test_a_question_that_went_down_with_a_trainer_is_asked_of_the_next_one(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with WeightSubscriber(context, addresses.snapshots, HELLO, ask_again_s=0.2) as subscriber:
        asking = asyncio.create_task(subscriber.fetch(PATIENCE_S))
        with context.socket(zmq.ROUTER) as dying:
            dying.bind(addresses.snapshots)
            await dying.recv_multipart()
        async with serving(context, addresses) as publisher:
            await publisher.publish(weights(3))
            assert_same((await asking).update, weights(3))
            await publisher.publish(weights(4))
            # Not a late answer to an earlier question.
            assert_same((await subscriber.fetch(PATIENCE_S)).update, weights(4))


async def test_an_answer_that_takes_longer_than_the_wait_for_it_is_taken_and_its_double_is_not(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with (
        WeightPublisher(context, addresses.snapshots, HELLO, "a") as slow,
        WeightSubscriber(context, addresses.snapshots, HELLO, ask_again_s=0.1) as subscriber,
    ):
        await slow.publish(weights(3))
        asking = asyncio.create_task(subscriber.fetch(PATIENCE_S))
        for peer, number, question in [await slow._socket.recv_multipart() for _ in range(2)]:
            await slow._socket.send_multipart([peer, number, *await slow._answer(peer, number, question)])
        assert_same((await asking).update, weights(3))
        await slow.publish(weights(4))
        serving = asyncio.create_task(slow.serve())
        assert_same((await subscriber.fetch(PATIENCE_S)).update, weights(4))
        serving.cancel()


async def test_whole_weights_that_are_damaged_on_the_way_are_refused(
    publisher: WeightPublisher, subscriber: WeightSubscriber
) -> None:
    history = await publisher.publish(weights(1))
    history.whole.frames[-1] = b"bad!"
    with pytest.raises(WeightsError, match="weights 1: scale is damaged"):
        await subscriber.fetch(PATIENCE_S)


async def test_a_delta_that_is_damaged_on_the_way_is_asked_for_whole(
    publisher: WeightPublisher, subscriber: WeightSubscriber
) -> None:
    update = large("<u2")
    await publisher.publish(update)
    await subscriber.fetch(PATIENCE_S)
    update = changed(update, 0.02)
    history = await publisher.publish(update)
    history.deltas[-1].frames[1] = bytes(len(history.deltas[-1].frames[1]))
    fetched = await subscriber.fetch(PATIENCE_S)
    assert_same(fetched.update, update)
    assert not fetched.is_delta


async def test_no_weights_by_the_deadline_are_an_error_that_names_it(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with (
        WeightSubscriber(context, addresses.snapshots, HELLO) as subscriber,
        pytest.raises(TransportError, match=r"generator waits for a weight snapshot: none for 0\.05 s"),
    ):
        await subscriber.fetch(SOON_S)


# Who may have them


@pytest.mark.parametrize(
    ("changes", "what", "message"),
    [
        ({"protocol": 99}, "protocol", f"expected protocol {PROTOCOL}, found 99"),
        ({"run": "another"}, "run", "expected run 'r', found 'another'"),
        ({"tokenizer": ""}, "tokenizer", "expected tokenizer 't', found ''"),
    ],
)
async def test_a_generator_of_another_protocol_run_or_tokenizer_is_refused_in_one_line(
    context: zmq.asyncio.Context, addresses: Addresses, changes: dict[str, object], what: str, message: str
) -> None:
    reports: list[str] = []
    async with serving(context, addresses, reports=reports) as publisher:
        await publisher.publish(weights(1))
        hello: Hello = msgspec.structs.replace(HELLO, **changes)
        with (
            WeightSubscriber(context, addresses.snapshots, hello) as stranger,
            pytest.raises(TransportError, match=rf"^the trainer refused this generator: {message}$"),
        ):
            await stranger.fetch(PATIENCE_S)
        assert publisher.num_refused == {what: 1}
        assert reports == [f"refused a generator: {message}"]
        with WeightSubscriber(context, addresses.snapshots, HELLO) as own:
            assert_same((await own.fetch(PATIENCE_S)).update, weights(1))


async def test_a_question_in_another_protocols_frame_is_refused_and_counted(
    publisher: WeightPublisher, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    await publisher.publish(weights(1))

    with context.socket(zmq.DEALER) as old:
        old.connect(addresses.snapshots)
        await old.send_multipart([b"1", of_protocol(7, encode(HELLO))])
        number, answer = await old.recv_multipart()
    assert number == b"1"
    assert decode(answer, _Answer).refusal == f"expected a frame of tsd's protocol {PROTOCOL}, found protocol 7"
    assert publisher.num_refused == {"protocol": 1}


async def test_an_answer_in_another_protocols_frame_ends_the_generator_with_both_numbers(
    context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with (
        context.socket(zmq.ROUTER) as newer,
        WeightSubscriber(context, addresses.snapshots, HELLO) as subscriber,
    ):
        newer.bind(addresses.snapshots)
        asking = asyncio.create_task(subscriber.fetch(PATIENCE_S))
        peer, number, question = await newer.recv_multipart()
        await newer.send_multipart([peer, number, of_protocol(9, question)])
        with pytest.raises(ProtocolError, match=f"protocol {PROTOCOL}, found protocol 9$"):
            await asking


async def test_noise_is_no_question_and_gets_no_answer(
    publisher: WeightPublisher, subscriber: WeightSubscriber, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    await publisher.publish(weights(1))
    with context.socket(zmq.DEALER) as noisy:
        noisy.connect(addresses.snapshots)
        rng = np.random.default_rng(0)
        for count in (1, 2, 3):
            await noisy.send_multipart([rng.bytes(40)] * count)
        assert_same((await subscriber.fetch(PATIENCE_S)).update, weights(1))
        assert not await noisy.poll(timeout=0)
    assert publisher.num_damaged == 3


async def test_a_question_past_its_limit_is_cut_off_and_others_are_answered(
    publisher: WeightPublisher, subscriber: WeightSubscriber, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    await publisher.publish(weights(1))
    with context.socket(zmq.DEALER) as large:
        large.connect(addresses.snapshots)
        await large.send_multipart([b"1", bytes(MAX_QUESTION_BYTES + 1)])
        assert_same((await subscriber.fetch(PATIENCE_S)).update, weights(1))
        assert not await large.poll(timeout=0)
    assert publisher.num_damaged == 0
