"""From the trainer's inbox to its batches: what is fresh enough and whole is used, all else is refused and counted.

    receive   waits for generators, and for room in the queue (they then wait in turn)
    take      waits for `receive`; who waits long says so

Knows nothing about learning.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from tsd.config import Config
from tsd.learn.checkpoint import TrainState
from tsd.transport.trajectories import Inbox, Refused
from tsd.types import Trajectory

LONG_WAIT_S = 30.0


@dataclass(slots=True)
class Intake:
    """One trainer's. Counts go on from a checkpoint."""

    config: Config
    inbox: Inbox
    state: TrainState
    """Where training stood at the start."""
    report: Callable[[str], None]
    queue: "asyncio.Queue[Trajectory | Refused | None]" = field(init=False)
    taking: bool = False
    stopping: bool = False
    wait_s: float = 0.0
    """Time the last batch took to come together."""
    consumed: dict[str, int] = field(init=False)
    positions: dict[str, int] = field(init=False)
    num_refused: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.queue = asyncio.Queue(self.config.transport.queue)
        self.consumed, self.positions = dict(self.state.consumed), dict(self.state.positions)
        self.num_refused = Counter(self.state.num_refused)

    @property
    def waiting(self) -> bool:
        """Whether there is nothing to do until a trajectory comes."""
        return self.taking and self.queue.empty()

    async def receive(self) -> None:
        """What generators send waits in the queue."""
        while True:
            await self.queue.put(await self.inbox.next(self.config.transport.timeout_s))

    async def take(self, version: int) -> list[Trajectory]:
        """A batch that is fresh enough at that version; an empty one when told to stop."""
        self.taking, started, batch = True, time.monotonic(), list[Trajectory]()
        while len(batch) < self.config.train.batch_size and not self.stopping:
            try:
                async with asyncio.timeout(LONG_WAIT_S):
                    self.admit(await self.queue.get(), version, batch)
            except TimeoutError:
                self.report(f"waits for trajectories: {len(batch)} in {time.monotonic() - started:.0f} s")
        self.taking, self.wait_s = False, time.monotonic() - started
        return [] if self.stopping else batch

    def admit(self, trajectory: Trajectory | Refused | None, version: int, batch: list[Trajectory]) -> None:
        """The staleness gate. None only wakes `take`."""
        if trajectory is None:
            return
        self.consumed[trajectory.sender] = trajectory.serial + 1
        if isinstance(trajectory, Refused):
            self.num_refused["invalid"] += 1
            self.report(f"refused: {trajectory.reason}")
            return
        generator = str(trajectory.generator)
        self.positions[generator] = max(self.positions.get(generator, 0), trajectory.position + 1)
        if version - trajectory.version > self.config.train.max_staleness:
            self.num_refused["stale"] += 1
        else:
            batch.append(trajectory)

    def stop(self) -> None:
        """`take` gives up what it waits for."""
        self.stopping = True
        if not self.queue.full():
            self.queue.put_nowait(None)

    def counted(self, state: TrainState) -> TrainState:
        """With what has come in by now."""
        return msgspec.structs.replace(
            state,
            consumed=dict(self.consumed),
            positions=dict(self.positions),
            num_refused=dict(self.num_refused),
        )
