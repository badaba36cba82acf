"""Weights that generators hand on: few copies leave the trainer, and everybody gets what the trainer has."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tensors import changed, large
from tests.support.wire import HELLO, PATIENCE_S, assert_same
from tsd.transport.curve import generator_context, trainer_context
from tsd.transport.keys import OTHER, Keys, load_keys, make_keys
from tsd.transport.weights import WeightPublisher, WeightRelay, WeightSubscriber
from tsd.types import WeightUpdate

FANOUT = 2


@dataclass
class Member:
    """A generator, as far as weights go."""

    subscriber: WeightSubscriber
    relay: WeightRelay
    has: WeightUpdate | None = None

    async def fetch(self) -> None:
        fetched = await self.subscriber.fetch(PATIENCE_S)
        self.has = fetched.update
        await self.relay.take(fetched)


@dataclass
class Tree:
    """A trainer and eight generators, of which two ask it and the others one another."""

    publisher: WeightPublisher
    members: list[Member]

    async def sync(self) -> tuple[int, int]:
        """All get the newest, in no order. Times that the trainer gave it, and bytes."""
        times, size = self.publisher.num_answers, self.publisher.sent_bytes
        async with asyncio.TaskGroup() as group:
            for member in reversed(self.members):
                group.create_task(member.fetch())
        return self.publisher.num_answers - times, self.publisher.sent_bytes - size


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Keys, Keys]:
    """The trainer's, and the generators'."""
    make_keys(tmp_path / "keys")
    found = [load_keys(str(tmp_path / "keys"), role) for role in OTHER]
    assert found[0] is not None
    assert found[1] is not None
    return found[0], found[1]


@asynccontextmanager
async def planted(keys: tuple[Keys, Keys]) -> AsyncIterator[Tree]:
    """With keys, over TCP: as on a cluster."""
    trainers, generators = keys
    async with AsyncExitStack() as stack:
        enter = stack.enter_context
        listening, asking = enter(trainer_context(trainers)), enter(generator_context(generators))
        giving, among = enter(trainer_context(generators.among)), enter(generator_context(generators.among))
        publisher = enter(WeightPublisher(listening, "tcp://127.0.0.1:*", HELLO, "a"))
        root = publisher.endpoint
        members = list[Member]()
        for number in range(8):
            subscriber = enter(WeightSubscriber(asking, root, HELLO, ask_again_s=PATIENCE_S))
            members.append(Member(subscriber, enter(WeightRelay(giving, "tcp://127.0.0.1:*", HELLO))))
            if number >= FANOUT:
                subscriber.ask_first(among, members[number // FANOUT - 1].relay.endpoint)
        tasks = [asyncio.create_task(one.serve()) for one in (publisher, *(member.relay for member in members))]
        yield Tree(publisher, members)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("share", [0.02, 1.0])
async def test_eight_generators_get_a_version_of_which_two_copies_left_the_trainer(
    keys: tuple[Keys, Keys], share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    update = large("<u2")
    async with planted(keys) as tree:
        await tree.publisher.publish(update)
        given = [await tree.sync()]
        for number in range(3):
            update = changed(update, share, seed=number)
            await tree.publisher.publish(update)
            given.append(await tree.sync())
        for member in tree.members:
            assert member.has is not None
            assert_same(member.has, update)
        assert tree.publisher.history is not None
        newest = tree.publisher.history.newest.num_bytes
        with capsys.disabled():
            for version, (times, size) in enumerate(given):
                print(f"\n8 generators, version {version}: {times} copies, {size:,} bytes left the trainer", end="")
    assert [times for times, _ in given] == [2] * 4
    assert given[-1][1] <= 2.1 * newest


async def test_who_joins_late_and_asks_one_that_has_a_delta_alone_goes_to_the_trainer(
    keys: tuple[Keys, Keys],
) -> None:
    update = large("<u2")
    async with planted(keys) as tree:
        await tree.publisher.publish(update)
        await tree.members[0].fetch()
        await tree.publisher.publish(changed(update, 0.02))
        await tree.members[0].fetch()
        late = tree.members[2]  # which asks the first one, and that one has a delta alone
        await late.fetch()
        assert tree.publisher.num_answers == 3
        assert late.has is not None
        assert_same(late.has, changed(update, 0.02))


async def test_where_the_other_generator_is_gone_the_trainer_is_asked(keys: tuple[Keys, Keys]) -> None:
    async with planted(keys) as tree:
        await tree.publisher.publish(large("<u2"))
        child = tree.members[2].subscriber
        child._ask_again_s = 0.3
        tree.members[0].relay._socket.close(linger=0)
        assert_same((await child.fetch(PATIENCE_S)).update, large("<u2"))


async def test_the_same_version_of_another_life_is_handed_on(keys: tuple[Keys, Keys]) -> None:
    async with planted(keys) as tree:
        await tree.publisher.publish(large("<u2", version=4))
        await tree.sync()
        tree.publisher.life, tree.publisher.history = "b", None
        other = changed(large("<u2", version=3), 0.5)
        await tree.publisher.publish(other)
        await tree.sync()
        for member in tree.members:
            assert member.subscriber.life == "b"
            assert member.has is not None
            assert_same(member.has, other)
