"""The parser must take anything a model may write: exact where it is arithmetic, None where not, always quickly."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsd.tasks.countdown import ILLEGAL, Countdown, make_problem
from tsd.tasks.expression import evaluate

HOSTILE = [
    "9**9**9",
    "9**9**9**9",
    "(" * 10_000 + "1" + ")" * 10_000,
    "(" * 10_000,
    "9" * 1_000_000,
    "1+" * 100_000 + "1",
    "١٢+٣",
    "5×9",  # noqa: RUF001
    "𝟓+𝟗",  # noqa: RUF001
    "²+5",
    "5/0",
    "5/(9-9)",
    "__import__('os').system('true')",
    "abs(5)",
    "5 9",
    "5+",
    "+5",
    "-5",
    "",
    " ",
    "\x00",
    "5//9",
    "5%9",
    "1e9",
    "0x5",
    "5.0",
    "(5",
    "5)",
    "()",
    "lambda: 5",
    "\ud800",
]


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("(13+9)+5+5", 32, [13, 9, 5, 5]),
        ("1/3", Fraction(1, 3), [1, 3]),
        ("2-3-4", -5, [2, 3, 4]),
        ("8/4/2", 1, [8, 4, 2]),
        ("2+3*4", 14, [2, 3, 4]),
        (" ( 2 + 3 ) * 4 ", 20, [2, 3, 4]),
        ("((((7))))", 7, [7]),
    ],
)
def test_arithmetic_is_exact_and_follows_precedence(text: str, value: Fraction, numbers: list[int]) -> None:
    assert evaluate(text) == (value, numbers)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_illegal_within_ten_milliseconds(text: str) -> None:
    problem = make_problem((5, 9), 14)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        grade = Countdown().grade(problem, f"<answer>{text}</answer>")
        times.append(time.perf_counter() - started)
        assert grade == ILLEGAL
    assert min(times) < 0.01


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_no_text_makes_the_parser_raise(text: str) -> None:
    evaluate(text)
    Countdown().grade(make_problem((5, 9), 14), text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789+-*/() "))
def test_what_python_and_the_parser_both_take_has_one_value(text: str) -> None:
    parsed = evaluate(text)
    if parsed is None or any(token in text for token in ("**", "//")):
        return
    spaced = "".join(f"Fraction({''.join(run)})" if digits else "".join(run) for digits, run in _runs(text))
    assert parsed[0] == eval(spaced, {"Fraction": Fraction})


def _runs(text: str) -> list[tuple[bool, list[str]]]:
    runs: list[tuple[bool, list[str]]] = []
    for character in text:
        if not runs or runs[-1][0] != character.isdigit():
            runs.append((character.isdigit(), []))
        runs[-1][1].append(character)
    # A leading zero is no Python integer; Fraction takes it as text.
    return [(digits, [repr("".join(run))] if digits else run) for digits, run in runs]
