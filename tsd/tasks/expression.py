"""Exact arithmetic on text nobody vouches for: a bounded recursive-descent parser over rationals.

Never calls Python's evaluator and never raises. Knows nothing about targets or rewards.
"""

from fractions import Fraction

MAX_CHARS = 200
MAX_DEPTH = 24
MAX_DIGITS = 6
DIGITS = frozenset("0123456789")


class _Illegal(Exception):
    """The text is no expression of the grammar; leaves this module as None."""


class _Parser:
    """sum := product (('+'|'-') product)*;  product := atom (('*'|'/') atom)*;  atom := NUMBER | '(' sum ')'"""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.numbers: list[int] = []

    def peek(self) -> str:
        while self.text[self.position : self.position + 1] == " ":
            self.position += 1
        return self.text[self.position : self.position + 1]

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while (operator := self.peek()) in ("+", "-"):
            self.position += 1
            right = self.product(depth)
            value = value + right if operator == "+" else value - right
        return value

    def product(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while (operator := self.peek()) in ("*", "/"):
            self.position += 1
            right = self.atom(depth)
            if operator == "/" and right == 0:
                raise _Illegal
            value = value * right if operator == "*" else value / right
        return value

    def atom(self, depth: int) -> Fraction:
        if self.peek() != "(":
            return self.number()
        if depth == 0:
            raise _Illegal
        self.position += 1
        value = self.sum(depth - 1)
        if self.peek() != ")":
            raise _Illegal
        self.position += 1
        return value

    def number(self) -> Fraction:
        self.peek()
        start = self.position
        while self.text[self.position : self.position + 1] in DIGITS:
            self.position += 1
        if not 0 < self.position - start <= MAX_DIGITS:
            raise _Illegal
        self.numbers.append(int(self.text[start : self.position]))
        return Fraction(self.numbers[-1])


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """The value of an expression of + - * / and brackets, with the numbers it uses in order; None where it is none.

    At most MAX_CHARS characters, MAX_DEPTH nested brackets and MAX_DIGITS digits a number, so time is bounded.
    """
    if len(text) > MAX_CHARS:
        return None
    parser = _Parser(text)
    try:
        value = parser.sum(MAX_DEPTH)
    except _Illegal:
        return None
    return (value, parser.numbers) if parser.peek() == "" else None
