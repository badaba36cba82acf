"""Countdown for a language model that was never taught it: worked examples, then the problem, as a text to go on with.

A task of one's own for `tsd launch --set task.name=tools/experiments/worked_examples.py:WorkedExamples`.
"""

from tsd.tasks.countdown import Countdown, question
from tsd.types import Problem, PromptStyle

EXAMPLES = """\
Numbers 3 5 2, target 16: <answer>(3 + 5) * 2</answer>
Numbers 9 4 7, target 20: <answer>9 + 4 + 7</answer>
"""


class WorkedExamples(Countdown):
    """Countdown in one step, its answer."""

    name = "countdown-worked-examples"

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        """The same in every style."""
        asked = question(problem)
        return f"{EXAMPLES}Numbers {' '.join(map(str, asked.input))}, target {asked.target}:"
