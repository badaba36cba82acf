"""Stand-ins for engines: scripted answers, and a loop whose clock jumps instead of waiting."""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from tsd.types import Expansion, Finish, Step, WeightUpdate


def step(*tokens: int, finish: Finish = "step", logprob: float = -1.0, version: int = 0, value: float = 0.0) -> Step:
    return Step(tokens, (logprob,) * len(tokens), (value,) * len(tokens), finish, version)


class ScriptedEngine:
    """Answers `expand` with what a function of the state says, after a latency on the loop's clock."""

    def __init__(self, script: Callable[[tuple[int, ...]], Expansion], latency_s: float = 0.0) -> None:
        self.script, self.latency_s = script, latency_s
        self.version = 0
        self.expanded: list[tuple[int, ...]] = []
        self.num_in_flight = self.most_in_flight = self.num_cancelled = 0

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        self.expanded.append(tuple(state))
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            return self.script(tuple(state))
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_in_flight -= 1

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        return tuple(step(9, finish="end") for _ in range(num_samples))

    async def load(self, weights: WeightUpdate) -> float:
        self.version = weights.version
        return 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Its time jumps to the next timer as soon as nothing else is ready: latencies in zero seconds, in one order."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)
        if not ready and scheduled:
            self._now = max(self._now, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]
