"""From sampled steps to priors over the distinct ones. Knows nothing about trees but their nodes."""

import math
from collections.abc import Sequence
from typing import Literal, assert_never

from tsd.search.node import Node

PriorKind = Literal["multiplicity", "softmax", "length-normalised"]


def set_priors(children: list[Node], kind: PriorKind) -> None:
    """Each child's share: a weight for each time it was drawn. They sum to 1."""
    if kind == "multiplicity":
        weights: Sequence[float] = [child.num_drawn for child in children]
        if max(weights) == 1:
            for child in children:
                child.prior = 1 / len(children)
            return
    else:
        weights = _by_probability(children, kind)
    total = sum(weights)
    for child, weight in zip(children, weights, strict=True):
        child.prior = weight / total


def _by_probability(children: Sequence[Node], kind: Literal["softmax", "length-normalised"]) -> list[float]:
    """A step's probability under the policy (the published choice), or that per token, once for each draw."""
    steps = [child.step for child in children if child.step is not None]
    scores = [sum(step.logprobs) for step in steps]
    if kind == "length-normalised":
        scores = [score / len(step.tokens) for score, step in zip(scores, steps, strict=True)]
    elif kind != "softmax":
        assert_never(kind)
    highest = max(scores)
    return [child.num_drawn * math.exp(score - highest) for child, score in zip(children, scores, strict=True)]
