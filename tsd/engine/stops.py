"""Where a sample ends: at `</step>`, at the end of the answer, at EOS. Knows token ids and text, nothing else."""

from collections.abc import Callable, Sequence

from tsd.types import Finish

STOPS = ("</step>", "</answer>")
"""The end of a step and the end of the answer, in every task and model."""
TAIL_TOKENS = 16
"""Enough to hold a stop string, whatever the tokenizer makes of it."""


class Stops:
    """Finds the end in sampled tokens. Where a tag is one token its id tells; elsewhere the text of the last tokens."""

    def __init__(
        self, encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str], eos: frozenset[int]
    ) -> None:
        ids = [tuple(encode(stop)) for stop in STOPS]
        self.decode = decode
        self.end_ids = set(eos)
        self.step_id, end = (tag[0] if len(tag) == 1 else None for tag in ids)
        self.by_text = self.step_id is None or end is None
        if end is not None:
            self.end_ids.add(end)

    def finish(self, tokens: Sequence[int], stops_at_step: bool) -> Finish | None:
        """How `tokens` end, or None where they go on. The token in which a stop string ends stays, whole."""
        if tokens[-1] in self.end_ids:
            return "end"
        if not self.by_text:
            return "step" if stops_at_step and tokens[-1] == self.step_id else None
        text, before = self.decode(tokens[-TAIL_TOKENS:]), self.decode(tokens[-TAIL_TOKENS:-1])
        if STOPS[1] in text and STOPS[1] not in before:
            return "end"
        return "step" if stops_at_step and STOPS[0] in text and STOPS[0] not in before else None
