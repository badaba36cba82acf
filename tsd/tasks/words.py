"""Word problems from a JSONL file, whose answer is one number; graded by that number alone.

A line is `{"question":"...","answer":"72"}`; an answer may also be a worked one that ends in `#### 72`. Knows nothing
about models, and nothing about how the number was found.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tsd.tasks.answers import answer_of, ask
from tsd.tasks.lines import read_lines
from tsd.tasks.splits import in_split
from tsd.types import Grade, Problem, PromptStyle, Split

LONGEST_NUMBER, LONGEST_ANSWER = 60, 200
"""Characters; what is longer is no answer to a word problem, with its unit."""
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
NUMBER = re.compile(rf"([-+]?)\s*\$?\s*([-+]?)({DIGITS})(?:[eE]([-+]?[0-9]{{1,3}}))?(?:\s*/\s*({DIGITS}))?\s*%?\.?")
UNIT = re.compile(r"(?<=[0-9])\s*[^\W\d_][^\d]*$")
"""Words after a number, such as `apples` or `km per hour`."""
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-"})
RESULT_MARK = "####"
EXACT, WRONG, ILLEGAL = Grade(1.0, True, True), Grade(0.0, False, True), Grade(-1.0, False, False)


class Question(msgspec.Struct, frozen=True):
    """One line of the file; what else it holds is passed over."""

    question: Annotated[str, Meta(min_length=1, max_length=20_000)]
    answer: Annotated[str, Meta(max_length=20_000)] | int | float


_decoder = msgspec.json.Decoder(Question)


def read_number(text: str) -> Fraction | None:
    """The number that a text is; None for anything else.

    Commas may stand between thousands, `$` before it, `%` or a unit's words after it; `3/4`, `1e3`, a Unicode minus and
    `\\boxed{18}` are read as people mean them.
    """
    if len(text) > LONGEST_ANSWER:
        return None
    boxed = BOXED.findall(text)
    text = (boxed[-1] if boxed else text).translate(MINUS).strip()
    found = NUMBER.fullmatch(text) or NUMBER.fullmatch(UNIT.sub("", text))
    if found is None or len(found[0]) > LONGEST_NUMBER or (found[1] and found[2]):
        return None
    number = Fraction(found[1] + found[2] + _digits(found[3])) * Fraction(10) ** int(found[4] or 0)
    below = Fraction(_digits(found[5])) if found[5] else Fraction(1)
    return number / below if below else None


def _digits(text: str) -> str:
    return text.replace(",", "").removesuffix(".")


class Words:
    """The `Task`. A split has the problems that the file has for it, be they fewer than asked for."""

    name = "words"

    def __init__(self, path: str) -> None:
        """Raises ValueError naming the file, and the line, that cannot be read."""
        if not path:
            raise ValueError('task.path: the task words needs a JSONL file of {"question":"...","answer":"72"} lines')
        self.path = Path(path).expanduser()
        self.known = tuple(self._read())

    def _read(self) -> Iterator[Problem]:
        seen = set[str]()
        try:
            for problem in read_lines(self.path, self.parse):
                if problem.id not in seen:
                    seen.add(problem.id)
                    yield problem
        except ValueError as error:
            raise ValueError(f"task.path: {error}") from None

    def parse(self, line: str) -> Problem:
        try:
            asked = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise ValueError(f'expected {{"question":"...","answer":"72"}}, found {line[:80]!r}: {error}') from None
        result = str(asked.answer).rpartition(RESULT_MARK)[2].strip()
        if read_number(result) is None:
            raise ValueError(f"expected an answer that is a number, or ends in {RESULT_MARK} 72, found {result[:80]!r}")
        digest = hashlib.blake2b(asked.question.encode(), digest_size=8).hexdigest()
        return Problem(f"words-{digest}", msgspec.json.encode(Question(asked.question, result)).decode())

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        own = [problem for problem in self.known if in_split(problem.id, split)]
        random.Random(f"{split} {seed}").shuffle(own)
        yield from own[:count]

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        return ask(_decoder.decode(problem.text).question, style)

    def grade(self, problem: Problem, response: str) -> Grade:
        number = read_number(answer_of(response) or "")
        if number is None:
            return ILLEGAL
        return EXACT if number == read_number(str(_decoder.decode(problem.text).answer)) else WRONG
