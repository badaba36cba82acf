"""What tasks share in asking and in reading: a prompt's instruction, the answer's tags, and the digits of a text.

Knows nothing about what an answer says.
"""

from tsd.types import PromptStyle

OPENING, CLOSING = "<answer>", "</answer>"
SIGNS = frozenset("0123456789+-*/()=|: ")
INSTRUCTION = (
    "Work in small steps, each written as <step>...</step>. Then write the final answer alone as <answer>...</answer>."
)


def answer_of(response: str) -> str | None:
    """What stands in the last answer tags; None where there are none, or they are not closed."""
    opening, closing = response.rfind(OPENING), response.rfind(CLOSING)
    return None if opening < 0 or closing < opening else response[opening + len(OPENING) : closing]


def ask(question: str, style: PromptStyle) -> str:
    """A question as a model is asked it: with the instruction; as it is; or its digits and signs alone."""
    if style == "chat":
        return f"{question.strip()}\n\n{INSTRUCTION}"
    if style == "compact":
        return f"{question.strip()}\n"
    return " ".join("".join(one if one in SIGNS else " " for one in question).split())
