"""Sockets over TCP: closed to whoever has no key, and never open to other machines without any."""

import asyncio
import dataclasses
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from msgspec.structs import replace

from tests.support.launching import launched, until
from tests.support.runs import MOCK, SHORT, TSD, finish, summary, updates
from tests.support.wire import HELLO, PATIENCE_S, assert_same, trajectory, weights
from tsd.config import TransportConfig, load_config
from tsd.errors import TransportError
from tsd.run.launch import Request
from tsd.transport.addresses import Addresses, choose_base
from tsd.transport.codec import encode
from tsd.transport.curve import generator_context, trainer_context
from tsd.transport.keys import OTHER, Keys, load_keys, make_keys
from tsd.transport.progress import Progress, ProgressPublisher, ProgressSubscriber
from tsd.transport.trajectories import Inbox
from tsd.transport.weights import WeightPublisher, WeightSubscriber
from tsd.types import Trajectory

TCP = TransportConfig(scheme="tcp")
SAID = Progress(life="a", version=0, received={}, used={}, saved={}, asked=0)
LONG_ENOUGH_S = 1.0
"""For anything to cross that can: whoever has the key takes some milliseconds."""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@dataclass(frozen=True)
class Pairs:
    trainer: Keys
    generator: Keys


def loaded(directory: Path) -> Pairs:
    trainer, generator = (load_keys(str(directory), role) for role in OTHER)
    assert trainer is not None
    assert generator is not None
    return Pairs(trainer, generator)


@pytest.fixture
def pairs(keys: Path) -> Pairs:
    return loaded(keys)


@pytest.fixture
def other(tmp_path: Path) -> Pairs:
    """Keys of another run."""
    make_keys(tmp_path / "other")
    return loaded(tmp_path / "other")


class Trainer:
    """Its three sockets, with all that it would say on them."""

    def __init__(self, context: zmq.asyncio.Context, addresses: Addresses, stack: ExitStack) -> None:
        self.inbox = stack.enter_context(Inbox(context, addresses.trajectories, 4, {}))
        self.progress = stack.enter_context(ProgressPublisher(context, addresses.progress))
        self.weights = stack.enter_context(WeightPublisher(context, addresses.snapshots, HELLO, "a"))

    async def speak(self) -> None:
        """Until cancelled."""
        await self.weights.publish(weights(3))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.weights.serve())
            while True:
                await self.progress.tell(SAID)
                await asyncio.sleep(0.02)


@pytest.fixture
async def addresses() -> Addresses:
    return Addresses(await asyncio.to_thread(choose_base, TCP, Path()))


@pytest.fixture
async def trainer(pairs: Pairs, addresses: Addresses) -> AsyncIterator[Trainer]:
    with ExitStack() as stack:
        context = stack.enter_context(trainer_context(pairs.trainer))
        trainer = Trainer(context, addresses, stack)
        speaking = asyncio.create_task(trainer.speak())
        yield trainer
        speaking.cancel()


async def crosses(context: zmq.asyncio.Context, trainer: Trainer, addresses: Addresses, seconds: float) -> set[str]:
    """What comes through to a generator with that context, or from it, in so long."""

    async def hear() -> None:
        with ProgressSubscriber(context, addresses.progress) as listener:
            assert await listener.newest(seconds) == SAID

    async def fetch() -> None:
        with WeightSubscriber(context, addresses.snapshots, HELLO) as subscriber:
            assert_same((await subscriber.fetch(seconds)).update, weights(3))

    async def send() -> None:
        with context.socket(zmq.PUSH) as wire:
            wire.linger = 0
            wire.connect(addresses.trajectories)
            # Not awaited: where nobody lets it in, it is never taken.
            sending = asyncio.ensure_future(wire.send(encode(trajectory("0-a"))))
            assert isinstance(await trainer.inbox.next(seconds), Trajectory)
            await sending

    ways = {"progress": hear, "weights": fetch, "trajectories": send}
    ends = await asyncio.gather(*(way() for way in ways.values()), return_exceptions=True)
    assert all(end is None or isinstance(end, TransportError) for end in ends), ends
    return {name for name, end in zip(ways, ends, strict=True) if end is None}


async def test_who_has_the_key_is_talked_to(pairs: Pairs, trainer: Trainer, addresses: Addresses) -> None:
    with generator_context(pairs.generator) as context:
        assert await crosses(context, trainer, addresses, PATIENCE_S) == {"progress", "weights", "trajectories"}


@pytest.mark.parametrize("who", ["nobody", "a generator of other keys", "one that knows the trainer", "the trainer"])
async def test_who_has_not_gets_nothing_and_gives_nothing(
    who: str, pairs: Pairs, other: Pairs, trainer: Trainer, addresses: Addresses
) -> None:
    found = {
        "nobody": None,
        "a generator of other keys": other.generator,
        "one that knows the trainer": dataclasses.replace(other.generator, other=pairs.trainer.public),
        "the trainer": dataclasses.replace(pairs.trainer, other=pairs.trainer.public),
    }[who]
    with generator_context(found) as context:
        assert await crosses(context, trainer, addresses, LONG_ENOUGH_S) == set()


async def test_a_generator_with_keys_does_not_listen_to_a_trainer_without(pairs: Pairs, addresses: Addresses) -> None:
    with ExitStack() as stack:
        trainer = Trainer(stack.enter_context(trainer_context(None)), addresses, stack)
        speaking = asyncio.create_task(trainer.speak())
        with generator_context(pairs.generator) as context:
            assert await crosses(context, trainer, addresses, LONG_ENOUGH_S) == set()
        with generator_context(None) as context:
            assert len(await crosses(context, trainer, addresses, PATIENCE_S)) == 3, "loopback needs no keys"
        speaking.cancel()


# What the wire carries


@contextmanager
def tapped(address: str) -> Iterator[tuple[str, bytearray]]:
    """An address that leads to another one, and all that has crossed it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    seen = bytearray()
    with socket.create_server((host, 0)) as server:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with source, sink:
                while data := source.recv(2**16):
                    seen.extend(data)
                    sink.sendall(data)

        def accept() -> None:
            near, _ = server.accept()
            far = socket.create_connection((host, int(port)))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(ends[0].dup(), ends[1].dup()), daemon=True).start()
            near.close()
            far.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"tcp://{host}:{server.getsockname()[1]}", seen


@pytest.mark.parametrize("with_keys", [False, True])
async def test_what_crosses_can_be_read_on_the_way_only_without_keys(
    with_keys: bool, pairs: Pairs, addresses: Addresses
) -> None:
    trainer, generator = (pairs.trainer, pairs.generator) if with_keys else (None, None)
    with ExitStack() as stack:
        inbox = stack.enter_context(Inbox(stack.enter_context(trainer_context(trainer)), addresses.trajectories, 4, {}))
        address, seen = stack.enter_context(tapped(addresses.trajectories))
        wire = stack.enter_context(stack.enter_context(generator_context(generator)).socket(zmq.PUSH))
        wire.connect(address)
        await wire.send(encode(trajectory("0-a", group="a secret of the group")))
        assert isinstance(await inbox.next(PATIENCE_S), Trajectory)
    assert (b"a secret of the group" in seen) != with_keys


# Configuration


@pytest.mark.parametrize("host", ["10.0.0.5", "0.0.0.0", "192.168.1.7"])
def test_an_address_that_others_can_reach_takes_keys(host: str) -> None:
    settings = ["transport.scheme=tcp", f"transport.host={host}"]
    with pytest.raises(ValueError, match=rf"host: {host} can be reached .* run `tsd keys DIR` .*\$\.transport"):
        load_config(None, settings)
    assert load_config(None, [*settings, "transport.keys=k"]).transport.host == host
    assert load_config(None, ["transport.scheme=tcp", "transport.host=127.0.0.2"]).transport.keys == ""


@pytest.mark.parametrize("host", ["localhost", "*", "eth0", "10.0.0.5:1", "::1", ""])
def test_a_host_that_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="host: expected an IPv4 address such as"):
        load_config(None, ["transport.scheme=tcp", f"transport.host='{host}'", "transport.keys=k"])


def test_ports_are_three_in_a_row_and_free_where_none_is_named() -> None:
    assert choose_base(replace(TCP, port=5000), Path()) == "tcp://127.0.0.1:5000"
    assert Addresses(choose_base(TransportConfig(), Path("/run"))).snapshots == "ipc:///run/snapshots"
    assert Addresses("tcp://127.0.0.1:5000").snapshots == "tcp://127.0.0.1:5002"
    first = int(choose_base(TCP, Path()).rpartition(":")[2])
    with ExitStack() as stack:
        for port in range(first, first + 3):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))


def test_a_host_of_another_machine_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"transport\.host: no three free ports in a row at 192\.0\.2\.1"):
        choose_base(replace(TCP, host="192.0.2.1", keys="k"), Path())


async def test_a_port_in_use_is_one_line(addresses: Addresses, context: zmq.asyncio.Context) -> None:
    with Inbox(context, addresses.trajectories, 4, {}):
        for listen in (ProgressPublisher, lambda context, at: WeightPublisher(context, at, HELLO, "a")):
            with pytest.raises(TransportError, match=r"trainer cannot listen at tcp://.*: Address already in use"):
                listen(context, addresses.trajectories)


# Files


def test_keys_are_their_makers_alone_and_never_overwritten(keys: Path) -> None:
    assert keys.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in keys.iterdir()} == dict.fromkeys(
        ("trainer.public", "trainer.secret", "generator.public", "generator.secret"), 0o600
    )
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    with pytest.raises(ValueError, match=f"{keys} is there already, and keys are never overwritten"):
        make_keys(keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    assert len(set(before.values())) == 4


def test_a_machine_of_generators_needs_no_secret_of_the_trainers(keys: Path) -> None:
    (keys / "trainer.secret").unlink()
    found = load_keys(str(keys), "generator")
    assert found is not None
    assert found.other == (keys / "trainer.public").read_bytes().strip()


@pytest.mark.parametrize("name", ["trainer.secret", "generator.public"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.chmod(0o640), r"others may use .* \(mode 640\); run chmod 600 "),
        (lambda path: path.chmod(0o602), r"others may use .* \(mode 602\); run chmod 600 "),
        (lambda path: path.unlink(), "cannot read .*: No such file or directory; `tsd keys DIR` makes keys"),
        (lambda path: path.write_bytes(b"x" * 39), "holds no key"),
        (lambda path: path.write_bytes(b"x" * 39 + b"'"), "holds no key"),
    ],
)
def test_a_launch_refuses_keys_that_others_may_read_or_that_are_none(
    name: str, spoil: Callable[[Path], None], message: str, keys: Path
) -> None:
    request = Request(overrides=("engine.kind=mock", f"transport.keys={keys}"))
    assert request.resolve().transport.keys == str(keys)
    spoil(keys / name)
    with pytest.raises(ValueError, match=rf"transport\.keys: .*{message}"):
        request.resolve()


# A whole run


@pytest.mark.timeout(120)
def test_a_run_over_tcp_with_keys_goes_on_when_a_generator_is_killed(keys: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = (
        "--set",
        "transport.scheme=tcp",
        "--set",
        f"transport.keys={keys}",
        "--set",
        "engine.mock_latency_s=0.01",
    )
    with launched([*TSD, *MOCK, *SHORT, *options, "--max-updates", "15", "--run-dir", str(run_dir)]) as run:
        until(lambda: len(updates(run_dir)) >= 2, "two updates", 60)
        (generator,) = (one for one in run.alive() if "tsd.generator" in one.cmdline())
        sockets = generator.cmdline()[generator.cmdline().index("--sockets") + 1]
        generator.kill()
        output = finish(run, 100)
    assert sockets.startswith("tcp://127.0.0.1:")
    assert "generator-0 ended with signal SIGKILL" in output
    assert output.count("searching, with weights") == 2, "the next one rejoins"
    assert summary(run_dir)["num_updates"] == 15
    books = summary(run_dir)["books"]
    assert books["produced"] == books["trained"] + sum(books["refused"].values()) + books["in_flight"]
