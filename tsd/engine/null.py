"""An engine that answers at once and says nothing: what remains of a search's time with it is the search's own."""

import asyncio
import itertools
from array import array
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tsd.types import Expansion, Step, WeightUpdate

NUM_TOKENS = 16


class NullEngine:
    """An `Engine` whose every step is new and never ends the answer; its values go round a fixed ring."""

    def __init__(self) -> None:
        self.version = 0
        self._serial = itertools.count()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        await asyncio.sleep(0)  # as any engine does: without it agents would run one after another
        steps = tuple(self._step() for _ in range(num_samples))
        return Expansion(steps[0].values[0], steps)

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        return tuple(self._step() for _ in range(num_samples))

    async def load(self, weights: WeightUpdate) -> float:
        self.version = weights.version
        return 0.0

    def _step(self) -> Step:
        """What any engine hands over for a step: a new tuple and two arrays, filled from lists."""
        serial = next(self._serial)
        value = ((serial * 7919) % 1000) / 1000
        logprobs, values = array("f", [-1.0] * NUM_TOKENS), array("f", [value] * NUM_TOKENS)
        return Step((serial,) * NUM_TOKENS, logprobs, values, "step", self.version)
