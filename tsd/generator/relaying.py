"""What a generator on a cluster does besides: it follows a trainer that comes back elsewhere, and hands weights on.

    follow   wakes twice a second and looks whether it is told of another trainer, or of another generator to ask
    serve    waits for generators that ask for weights

Knows nothing about who decides where the trainer is, and who asks whom.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq.asyncio

from tsd.transport.addresses import Addresses
from tsd.transport.curve import generator_context, trainer_context
from tsd.transport.hello import Hello
from tsd.transport.keys import Keys
from tsd.transport.meeting import MEETING_FILE, read_meeting
from tsd.transport.progress import ProgressSubscriber
from tsd.transport.trajectories import Outbox
from tsd.transport.weights import WeightRelay, WeightSubscriber

POLL_S = 0.5


@dataclass(slots=True)
class Relaying:
    """One generator's."""

    run_dir: Path
    relay: WeightRelay
    peers: zmq.asyncio.Context
    """For questions to other generators."""
    outbox: Outbox
    progress: ProgressSubscriber
    weights: WeightSubscriber

    async def follow(self) -> None:
        """Until cancelled."""
        seen = 0
        while True:
            changed = await asyncio.to_thread(_changed_at, self.run_dir / MEETING_FILE)
            if changed != seen:
                seen = changed
                await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Goes where it is told."""
        if (meeting := await asyncio.to_thread(read_meeting, self.run_dir)) is None:
            return
        addresses = Addresses(meeting.trainer)
        self.outbox.move(addresses.trajectories)
        self.progress.move(addresses.progress)
        self.weights.move(addresses.snapshots)
        self.weights.ask_first(self.peers, meeting.parent)


@contextmanager
def open_relaying(
    run_dir: Path,
    address: str,
    keys: Keys | None,
    hello: Hello,
    ends: tuple[Outbox, ProgressSubscriber, WeightSubscriber],
) -> Iterator[Relaying | None]:
    """With weights handed on at that address; None where there is none."""
    if not address:
        yield None
        return
    among = keys.among if keys else None
    with (
        trainer_context(among) as givers,
        generator_context(among) as peers,
        WeightRelay(givers, address, hello) as relay,
    ):
        yield Relaying(run_dir, relay, peers, *ends)


def _changed_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
