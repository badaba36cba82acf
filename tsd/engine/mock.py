"""A deterministic engine without a model: plays Countdown in the compact form, well as often as it is told to.

Tokens are code points. The same seed, state and number of earlier calls on that state give the same answer, whatever
else happened. For tests and for trying the pipeline in seconds.
"""

import asyncio
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tsd.errors import EngineError, WeightsError
from tsd.model.files import MOCK_FILE
from tsd.tasks.arithmetic import Move, Term, moves, start
from tsd.types import Expansion, Finish, Step, WeightUpdate

LOGPROB = -0.25


class CharCodec:
    """A `TextCodec` whose tokens are code points."""

    def encode(self, prompt: str) -> tuple[int, ...]:
        return tuple(map(ord, prompt))

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


class MockEngine:
    """An `Engine`. `solve_rate` is the chance that a step leads to the target where one can; its only weight.

    V is 0.5 where the target can be reached and -0.5 elsewhere, give or take normal noise of `value_noise`.
    """

    def __init__(self, *, solve_rate: float, latency_s: float = 0.0, value_noise: float = 0.0, seed: int = 0) -> None:
        self.solve_rate, self.latency_s, self.value_noise, self.seed = solve_rate, latency_s, value_noise, seed
        self.version = 0
        self._num_calls: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        text, rng = self._begin(state)
        await asyncio.sleep(self.latency_s)
        steps = [self._step(text, rng, max_tokens) for _ in range(num_samples)]
        return Expansion(self._value(text), tuple(steps))

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        text, rng = self._begin(state)
        await asyncio.sleep(self.latency_s)
        return tuple(self._response(text, rng, max_tokens) for _ in range(num_samples))

    async def load(self, weights: WeightUpdate) -> float:
        if set(weights.tensors) != {"solve_rate"}:
            raise WeightsError(f"weights {weights.version}: the mock engine takes solve_rate alone")
        self.solve_rate, self.version = float(weights.tensors["solve_rate"][0]), weights.version
        return 0.0

    def _begin(self, state: Sequence[int]) -> tuple[str, random.Random]:
        text = "".join(map(chr, state))
        self._num_calls[text] += 1
        return text, random.Random(f"{self.seed} {self._num_calls[text]} {text}")

    def _response(self, text: str, rng: random.Random, max_tokens: int) -> Step:
        written = ""
        while "</answer>" not in written and len(written) < max_tokens:
            written += self._write(text + written, rng)
        return self._sampled(text, written, max_tokens)

    def _step(self, text: str, rng: random.Random, max_tokens: int) -> Step:
        return self._sampled(text, self._write(text, rng), max_tokens)

    def _sampled(self, text: str, written: str, max_tokens: int) -> Step:
        cut = written[:max_tokens]
        whole: Finish = "end" if written.endswith("</answer>") else "step"
        size = len(cut)
        logprobs, values = array("f", [LOGPROB]) * size, array("f", [self._value(text)]) * size
        return Step(tuple(map(ord, cut)), logprobs, values, whole if cut == written else "length", self.version)

    def _write(self, text: str, rng: random.Random) -> str:
        """The next step, or the answer when one number is left."""
        table, target = _read(text)
        if len(table) == 1:
            return f"<answer>{table[0].expression}</answer>"
        choices = list(moves(table))
        if rng.random() < self.solve_rate:
            choices = [move for move in choices if _reachable(_values(move.table), target)] or choices
        move = rng.choice(choices)
        left = " ".join(str(term.value) for term in move.table)
        return f"<step>{move.left.value}{move.operator}{move.right.value}={move.result.value}|{left}</step>"

    def _value(self, text: str) -> float:
        table, target = _read(text)
        value = 0.5 if _reachable(_values(table), target) else -0.5
        if not self.value_noise:
            return value
        return max(-1.0, min(1.0, value + random.Random(f"{self.seed} {text}").gauss(0.0, self.value_noise)))


def _values(table: tuple[Term, ...]) -> tuple[int, ...]:
    return tuple(sorted(term.value for term in table))


@lru_cache(maxsize=100_000)
def _reachable(values: tuple[int, ...], target: int) -> bool:
    """Whether a game from these numbers can end at the target."""
    if len(values) == 1:
        return values[0] == target
    return any(_reachable(_values(move.table), target) for move in moves(start(values)))


@lru_cache(maxsize=10_000)
def _read(text: str) -> tuple[tuple[Term, ...], int]:
    """The table and target a prompt and its steps so far lead to."""
    prompt, _, response = text.partition(":")
    numbers, _, target = prompt.partition("=")
    try:
        table = start(tuple(map(int, numbers.split())))
        for step in response.replace("<step>", "").split("</step>")[:-1]:
            table = _replay(table, step.partition("|")[0])
        return table, int(target)
    except (ValueError, StopIteration):
        raise EngineError(f"the mock engine reads Countdown's compact form alone, found {text[:60]!r}") from None


def _replay(table: tuple[Term, ...], written: str) -> tuple[Term, ...]:
    return next(move.table for move in moves(table) if _written(move) == written)


def _written(move: Move) -> str:
    return f"{move.left.value}{move.operator}{move.right.value}={move.result.value}"


def saved_solve_rate(checkpoint: Path | None, default: float) -> float:
    """What a mock run's checkpoint holds; the default where there is none."""
    if checkpoint is None:
        return default
    return msgspec.json.decode((checkpoint / MOCK_FILE).read_bytes(), type=float)
