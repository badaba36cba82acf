"""Countdown: reach a target from given numbers with + - * /, each number used at most once.

Reads the published data's own lines, `{"input":[5,13,5,9],"target":31}`. Knows nothing about models or search.
"""

import math
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tsd.config import TaskConfig
from tsd.tasks.answers import answer_of
from tsd.tasks.arithmetic import Move, random_game, ways
from tsd.tasks.expression import evaluate
from tsd.tasks.splits import SPLIT_PERCENT, in_split
from tsd.types import Grade, Problem, PromptStyle, Split

LARGEST_NUMBER = 13
LARGEST_TARGET = 2000
COMMON_TARGET = 100
RARE_TARGET_SHARE = 1 / 3
"""Share of the games ending past COMMON_TARGET that are kept: the published targets' quartiles are 19, 44 and 82."""
MAX_DRAWS = 200_000
"""Games drawn without a new problem before a split counts as used up."""
ILLEGAL = Grade(reward=-1.0, exact=False, well_formed=False)
NEAREST_MISS_REWARD = 0.2
"""A wrong result is worth this at best, so that no near miss is mistaken for a solution."""

PLAIN = re.compile(r"\s*([0-9]{1,9}(?:[ ,]+[0-9]{1,9}){0,8})\s*=\s*(-?[0-9]{1,9})\s*")
"""A problem as people type it: `5 13 5 9 = 31`."""
Key = tuple[tuple[int, ...], int]
"""What makes a problem: its numbers, sorted, and its target."""
CHAT_PROMPT = """\
Make {target} out of the numbers {numbers}. You may add, subtract, multiply and divide, and use each number at most \
once. Work in small steps: write one operation at a time as <step>a operation b = result, left: the numbers you still \
have</step>. When you have it, write a single expression over the given numbers, nothing else, as \
<answer>expression</answer>."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a problem file."""

    input: Annotated[tuple[Annotated[int, Meta(ge=0, le=999_999)], ...], Meta(min_length=1, max_length=8)]
    target: Annotated[int, Meta(ge=-(10**9), le=10**9)]


NAMES = ("input", "nums", "numbers")
"""What data sets call the numbers."""
_decoder = msgspec.json.Decoder(Question)


def _read(line: str) -> Question:
    """A line of any public data set of the game: its numbers by one of their usual names, other fields passed over.

    Raises what msgspec raises for a line that is none.
    """
    table = msgspec.json.decode(line, type=dict[str, Any])
    names = [name for name in NAMES if name in table]
    if len(names) > 1:
        raise msgspec.ValidationError(f"{' and '.join(names)} are both there; expected one of them")
    found = {"input" if name in NAMES else name: _whole(table[name]) for name in table if name in (*NAMES, "target")}
    return msgspec.convert(found, Question, strict=True)


def _whole(value: object) -> object:
    """31 where JSON has 31.0; all else as it is."""
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def question(problem: Problem) -> Question:
    """What a Countdown problem asks."""
    return _decoder.decode(problem.text)


def make_problem(numbers: tuple[int, ...], target: int) -> Problem:
    """Two problems with the same numbers in the same order and the same target have the same id."""
    text = msgspec.json.encode(Question(numbers, target)).decode()
    return Problem(id=f"countdown-{'-'.join(map(str, numbers))}-{target}", text=text)


class Countdown:
    """The `Task`. Splits are disjoint because each problem's split is a hash of its sorted numbers and its target."""

    name = "countdown"

    def __init__(self, config: TaskConfig = TaskConfig()) -> None:
        self.num_numbers, self.rare = config.num_numbers, config.rare

    def parse(self, line: str) -> Problem:
        plain = PLAIN.fullmatch(line)
        if plain is not None:
            line = f'{{"input":[{",".join(plain[1].replace(",", " ").split())}],"target":{plain[2]}}}'
        try:
            asked = _read(line)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError) as error:
            raise ValueError(
                f'expected {{"input":[5,13,5,9],"target":31}} or 5 13 5 9 = 31, found {line[:80]!r}: {error}'
            ) from None
        return make_problem(asked.input, asked.target)

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        if not self.rare:
            for problem, _ in self.games(split, count, seed):
                yield problem
            return
        rng, seen = random.Random(f"{split} {seed}"), set[Key]()
        for numbers in self._draws(rng, seen, split, count):
            if self._is_new(key := (tuple(sorted(numbers)), rare_target(numbers, rng)), seen, split):
                yield make_problem(numbers, key[1])

    def games(self, split: Split, count: int, seed: int) -> Iterator[tuple[Problem, tuple[Move, ...]]]:
        """Distinct problems of a split, each with the random game that made it, which solves it."""
        rng, seen = random.Random(f"{split} {seed}"), set[Key]()
        for numbers in self._draws(rng, seen, split, count):
            game = random_game(numbers, rng)
            if game is None or not _wanted(game[-1].result.value, rng):
                continue
            if self._is_new(key := (tuple(sorted(numbers)), game[-1].result.value), seen, split):
                yield make_problem(numbers, key[1]), game

    def _draws(self, rng: random.Random, seen: set[Key], split: Split, count: int) -> Iterator[tuple[int, ...]]:
        """Numbers, until `count` problems were found in them.

        Raises ValueError where there cannot be so many, or no new one comes up any more.
        """
        num_games = sum(math.comb(LARGEST_NUMBER + n - 1, n) for n in set(self.num_numbers)) * LARGEST_TARGET
        most = num_games * len(SPLIT_PERCENT[split]) // 100
        if count > most:
            raise ValueError(
                f"there are at most {most:,} {split} problems of {self.num_numbers} numbers, not {count:,}"
            )
        num_draws_since_new = num_seen = 0
        while len(seen) < count:
            num_draws_since_new = num_draws_since_new + 1 if len(seen) == num_seen else 0
            num_seen = len(seen)
            if num_draws_since_new > MAX_DRAWS:
                raise ValueError(
                    f"there are about {len(seen)} {split} problems of {self.num_numbers} numbers, not {count}"
                )
            yield tuple(rng.randint(1, LARGEST_NUMBER) for _ in range(rng.choice(self.num_numbers)))

    def _is_new(self, key: Key, seen: set[Key], split: Split) -> bool:
        """Whether it is the split's, and was not there before; it is then noted."""
        if key in seen or not in_split(repr(key), split):
            return False
        seen.add(key)
        return True

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        asked = question(problem)
        if style != "chat":
            return f"{' '.join(map(str, asked.input))}={asked.target}:"
        return CHAT_PROMPT.format(target=asked.target, numbers=", ".join(map(str, asked.input)))

    def grade(self, problem: Problem, response: str) -> Grade:
        asked, answer = question(problem), answer_of(response)
        result = None if answer is None else evaluate(answer)
        if result is None or not _drawn_from(result[1], asked.input):
            return ILLEGAL
        return Grade(reward=_reward(result[0], asked.target), exact=result[0] == asked.target, well_formed=True)


def response(game: tuple[Move, ...]) -> str:
    """A game in the compact form that the tiny model writes."""
    steps = (
        f"<step>{move.left.value}{move.operator}{move.right.value}={move.result.value}"
        f"|{' '.join(str(term.value) for term in move.table)}</step>"
        for move in game
    )
    return f"{''.join(steps)}<answer>{game[-1].result.expression}</answer>"


def random_response(problem: Problem, rng: random.Random) -> str:
    """Some legal game over the problem's numbers, wherever it leads."""
    game = None
    while game is None:
        game = random_game(question(problem).input, rng)
    return response(game)


def rare_target(numbers: tuple[int, ...], rng: random.Random) -> int:
    """One that can be reached in few ways: p(t) ~ ways(t) ** -2 * (1 + t / 40) ** -1.5.

    The numbers are those, of a few tried, under which the 820 published problems are likeliest.
    """
    found = [(target, count) for target, count in ways(tuple(sorted(numbers))).items() if target > 0]
    weights = [count**-2 * (1 + target / 40) ** -1.5 for target, count in found]
    return rng.choices(found, weights)[0][0]


def _wanted(target: int, rng: random.Random) -> bool:
    """Whether a game that ends there becomes a problem."""
    return 1 <= target <= COMMON_TARGET or (
        COMMON_TARGET < target <= LARGEST_TARGET and rng.random() < RARE_TARGET_SHARE
    )


def _drawn_from(used: list[int], given: tuple[int, ...]) -> bool:
    """Whether every number used is given, and none more often than given."""
    return all(used.count(number) <= given.count(number) for number in set(used))


def _reward(result: Fraction, target: int) -> float:
    """1 for exact; otherwise from NEAREST_MISS_REWARD down with the relative error, 1 less from 100% on."""
    if result == target:
        return 1.0
    return NEAREST_MISS_REWARD - float(min(Fraction(1), abs(result - target) / max(1, abs(target))))
