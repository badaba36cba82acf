"""Word problems whose answer is one number; graded by that number alone.

An answer may also be a worked one that ends in `#### 72`. Knows nothing about models, and nothing about how the number
was found.
"""

import re
from fractions import Fraction

from tsd.tasks.answers import RESULT_MARK, answer_of, boxed
from tsd.tasks.questions import EXACT, ILLEGAL, WRONG, Questions
from tsd.types import Grade, Problem

LONGEST_NUMBER, LONGEST_ANSWER = 60, 200
"""Characters; what is longer is no answer to a word problem, with its unit."""
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
NUMBER = re.compile(rf"([-+]?)\s*\$?\s*([-+]?)({DIGITS})(?:[eE]([-+]?[0-9]{{1,3}}))?(?:\s*/\s*({DIGITS}))?\s*%?\.?")
UNIT = re.compile(r"(?<=[0-9])\s*[^\W\d_][^\d]*$")
"""Words after a number, such as `apples` or `km per hour`."""
MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-"})


def read_number(text: str) -> Fraction | None:
    """The number that a text is; None for anything else.

    Commas may stand between thousands, `$` before it, `%` or a unit's words after it; `3/4`, `1e3`, a Unicode minus and
    `\\boxed{18}` are read as people mean them.
    """
    if len(text) > LONGEST_ANSWER:
        return None
    text = (boxed(text) or text).translate(MINUS).strip()
    found = NUMBER.fullmatch(text) or NUMBER.fullmatch(UNIT.sub("", text))
    if found is None or len(found[0]) > LONGEST_NUMBER or (found[1] and found[2]):
        return None
    number = Fraction(found[1] + found[2] + _digits(found[3])) * Fraction(10) ** int(found[4] or 0)
    below = Fraction(_digits(found[5])) if found[5] else Fraction(1)
    return number / below if below else None


def _digits(text: str) -> str:
    return text.replace(",", "").removesuffix(".")


class Words(Questions):
    """The `Task`."""

    name = "words"

    def result(self, answer: str) -> str:
        result = answer.rpartition(RESULT_MARK)[2].strip()
        if read_number(result) is None:
            raise ValueError(f"expected an answer that is a number, or ends in {RESULT_MARK} 72, found {result[:80]!r}")
        return result

    def grade(self, problem: Problem, response: str) -> Grade:
        number = read_number(answer_of(response) or "")
        if number is None:
            return ILLEGAL
        return EXACT if number == read_number(self.expected(problem)) else WRONG
