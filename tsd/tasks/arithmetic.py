"""Countdown as a game: moves, the exact solver, and random games. Knows nothing about text formats or models."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

OPERATORS = "+-*/"


@dataclass(frozen=True, slots=True)
class Term:
    """A number on the table and the expression that made it."""

    value: int
    expression: str

    @property
    def operand(self) -> str:
        return self.expression if self.expression.isdigit() else f"({self.expression})"


@dataclass(frozen=True, slots=True)
class Move:
    """One step: left operator right = result, and the terms then on the table."""

    left: Term
    operator: str
    right: Term
    table: tuple[Term, ...]

    @property
    def result(self) -> Term:
        return self.table[-1]


def deal(numbers: tuple[int, ...]) -> tuple[Term, ...]:
    """The table before the first move."""
    return tuple(Term(number, str(number)) for number in numbers)


def apply(left: int, operator: str, right: int) -> int | None:
    """The result where it is a whole number and not negative, else None."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right if left >= right else None
    if operator == "*":
        return left * right
    return left // right if right and left % right == 0 else None


def play(table: tuple[Term, ...], i: int, operator: str, j: int) -> Move | None:
    """The move on terms `i` and `j`, where it is legal."""
    left, right = table[i], table[j]
    result = apply(left.value, operator, right.value)
    if result is None:
        return None
    rest = tuple(term for k, term in enumerate(table) if k not in (i, j))
    return Move(left, operator, right, (*rest, Term(result, f"{left.operand}{operator}{right.operand}")))


def moves(table: tuple[Term, ...]) -> Iterator[Move]:
    """Every legal move. Sums and products take their operands in table order only."""
    for i, j in itertools.permutations(range(len(table)), 2):
        for operator in OPERATORS if i < j else "-/":
            move = play(table, i, operator, j)
            if move is not None:
                yield move


def solve(numbers: tuple[int, ...], target: int) -> Iterator[tuple[Move, ...]]:
    """Every game over whole, non-negative results that ends at the target with all numbers used."""
    yield from _solve(deal(numbers), target, ())


def _solve(table: tuple[Term, ...], target: int, played: tuple[Move, ...]) -> Iterator[tuple[Move, ...]]:
    if len(table) == 1:
        if table[0].value == target:
            yield played
        return
    for move in moves(table):
        yield from _solve(move.table, target, (*played, move))


def random_game(numbers: tuple[int, ...], rng: random.Random) -> tuple[Move, ...] | None:
    """Pairs and operators drawn evenly until one number is left; None where a draw is no legal move."""
    table, played = deal(numbers), []
    while len(table) > 1:
        i, j = rng.sample(range(len(table)), 2)
        move = play(table, i, rng.choice(OPERATORS), j)
        if move is None:
            return None
        played.append(move)
        table = move.table
    return tuple(played)


@lru_cache(maxsize=20_000)
def ways(numbers: tuple[int, ...]) -> Counter[int]:
    """Every result of all of the numbers, which are sorted, and in how many ways of moving it comes about."""
    if len(numbers) == 1:
        return Counter(numbers)
    found: Counter[int] = Counter()
    for i, j in itertools.combinations(range(len(numbers)), 2):
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for result in {apply(numbers[j], operator, numbers[i]) for operator in OPERATORS}:
            if result is not None:
                found.update(ways(tuple(sorted([*rest, result]))))
    return found
