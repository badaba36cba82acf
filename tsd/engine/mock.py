"""A deterministic engine without a model: plays Countdown in the compact form, well as often as it is told to.

Tokens are code points. The same seed, state and number of earlier calls on that state give the same answer, whatever
else happened. For tests and for trying the pipeline in seconds.
"""

import asyncio
import math
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tsd.errors import EngineError, WeightsError
from tsd.model.files import MOCK_FILE
from tsd.tasks.arithmetic import Move, Term, deal, moves
from tsd.types import Expansion, Finish, Step, WeightUpdate


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
        before, begun = _split(text)
        known = frozenset(map(chr, excluded))
        await asyncio.sleep(self.latency_s)
        steps = [
            self._step(before, begun, self._write(before, rng, begun, known), max_tokens) for _ in range(num_samples)
        ]
        return Expansion(self._value(before), tuple(steps))

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
        steps: list[Step] = []
        left = max_tokens
        while left > 0 and not (steps and steps[-1].finish == "end"):
            steps.append(self._step(text, "", self._write(text, rng), left))
            text += "".join(map(chr, steps[-1].tokens))
            left -= len(steps[-1].tokens)
        tokens = tuple(token for step in steps for token in step.tokens)
        logprobs = array("f", (logprob for step in steps for logprob in step.logprobs))
        values = array("f", (value for step in steps for value in step.values))
        return Step(tokens, logprobs, values, "end" if steps[-1].finish == "end" else "length", self.version)

    def _step(self, before: str, begun: str, written: str, max_tokens: int) -> Step:
        """What follows `begun` of a step or an answer that is `written` whole after the state `before`."""
        cut = written[len(begun) :][:max_tokens]
        whole: Finish = "end" if written.endswith("</answer>") else "step"
        finish: Finish = whole if begun + cut == written else "length"
        values = array("f", [self._value(before)]) * len(cut)
        if finish == "step":
            values[-1] = self._value(before + written)  # a model knows where a step leads before it is closed
        logprobs = array("f", self._logprobs(before, begun, cut))
        return Step(tuple(map(ord, cut)), logprobs, values, finish, self.version)

    def _write(self, text: str, rng: random.Random, begun: str = "", excluded: frozenset[str] = frozenset()) -> str:
        """The next step, or the answer when one number is left; it starts as `begun`, and not `excluded` after that."""
        if begun or excluded:
            chances = self._chances(text, begun)
            new = [written for written in chances if written[len(begun)] not in excluded] or list(chances)
            return rng.choices(new, [chances[written] for written in new])[0]
        table, target = _read(text)
        if len(table) == 1:
            return f"<answer>{table[0].expression}</answer>"
        choices = list(moves(table))
        if rng.random() < self.solve_rate:
            choices = [move for move in choices if _reachable(_values(move.table), target)] or choices
        return _step_text(rng.choice(choices))

    def _chances(self, text: str, begun: str) -> dict[str, float]:
        """Everything that starts as `begun` and may be written next; how likely each is, before that was begun."""
        table, target = _read(text)
        if len(table) == 1:
            return {f"<answer>{table[0].expression}</answer>": 1.0}
        every = list(moves(table))
        good = [move for move in every if _reachable(_values(move.table), target)] or every
        chances: dict[str, float] = {}
        for share, choices in ((1 - self.solve_rate, every), (self.solve_rate, good)):
            for move in choices:
                if (written := _step_text(move)).startswith(begun):
                    chances[written] = chances.get(written, 0.0) + share / len(choices)
        return chances

    def _logprobs(self, before: str, begun: str, cut: str) -> Iterator[float]:
        """The logprob of each character of `cut`, which follows `begun`."""
        chances = self._chances(before, begun)
        for end in range(len(begun), len(begun) + len(cut)):
            left = {written: one for written, one in chances.items() if written.startswith((begun + cut)[: end + 1])}
            yield math.log(sum(left.values()) / sum(chances.values()))
            chances = left

    def _value(self, text: str) -> float:
        table, target = _read(text)
        value = 0.5 if _reachable(_values(table), target) else -0.5
        if not self.value_noise:
            return value
        return max(-1.0, min(1.0, value + random.Random(f"{self.seed} {text}").gauss(0.0, self.value_noise)))


def _split(text: str) -> tuple[str, str]:
    """A state, and what of the next step or answer has been written after it."""
    prompt, colon, response = text.partition(":")
    steps, closed, begun = response.rpartition("</step>")
    return prompt + colon + steps + closed, begun


def _step_text(move: Move) -> str:
    left = " ".join(str(term.value) for term in move.table)
    return f"<step>{_written(move)}|{left}</step>"


def _values(table: tuple[Term, ...]) -> tuple[int, ...]:
    return tuple(sorted(term.value for term in table))


@lru_cache(maxsize=100_000)
def _reachable(values: tuple[int, ...], target: int) -> bool:
    """Whether a game from these numbers can end at the target."""
    if len(values) == 1:
        return values[0] == target
    return any(_reachable(_values(move.table), target) for move in moves(deal(values)))


@lru_cache(maxsize=10_000)
def _read(text: str) -> tuple[tuple[Term, ...], int]:
    """The table and target a prompt and its steps so far lead to."""
    prompt, _, response = text.partition(":")
    numbers, _, target = prompt.partition("=")
    try:
        table = deal(tuple(map(int, numbers.split())))
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
