"""What tasks share in asking and in reading: a prompt's instruction, the answer's tags, and the digits of a text.

Knows nothing about what an answer says.
"""

import re

from tsd.types import PromptStyle

OPENING, CLOSING = "<answer>", "</answer>"
BOX = "\\boxed{"
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
"""A brace, or what a backslash makes of the next character, which then is none."""
RESULT_MARK = "####"
"""Before the result of a worked answer, in GSM8K."""
SIGNS = frozenset("0123456789+-*/()=|: ")
INSTRUCTION = (
    "Work in small steps, each written as <step>...</step>. Then write the final answer alone as <answer>...</answer>."
)


def answer_of(response: str) -> str | None:
    """What stands in the last answer tags; None where there are none, or they are not closed."""
    opening, closing = response.rfind(OPENING), response.rfind(CLOSING)
    return None if opening < 0 or closing < opening else response[opening + len(OPENING) : closing]


def boxed(text: str) -> str | None:
    """What stands in the last box of a text in LaTeX; None where there is none, or it is not closed."""
    start, depth = text.rfind(BOX), 0
    if start < 0:
        return None
    for found in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if found[0] == "}" and not depth:
            return text[start + len(BOX) : found.start()]
    return None


def ask(question: str, style: PromptStyle) -> str:
    """A question as a model is asked it: with the instruction; as it is; or its digits and signs alone."""
    if style == "chat":
        return f"{question.strip()}\n\n{INSTRUCTION}"
    if style == "compact":
        return f"{question.strip()}\n"
    return " ".join("".join(one if one in SIGNS else " " for one in question).split())
