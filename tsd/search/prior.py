"""From K sampled steps to distinct children with priors. Knows nothing about trees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from tsd.types import Step

PriorKind = Literal["multiplicity", "softmax", "length-normalised"]


@dataclass(frozen=True, slots=True)
class Merged:
    """A distinct step and its share of the prior."""

    step: Step
    prior: float


def merge(steps: Sequence[Step], kind: PriorKind) -> list[Merged]:
    """Equal steps as one, in order of first appearance, their prior mass added; priors sum to 1."""
    weights = _weights(steps, kind)
    total = sum(weights)
    first: dict[tuple[int, ...], Step] = {}
    mass: dict[tuple[int, ...], float] = {}
    for step, weight in zip(steps, weights, strict=True):
        first.setdefault(step.tokens, step)
        mass[step.tokens] = mass.get(step.tokens, 0.0) + weight / total
    return [Merged(step, mass[tokens]) for tokens, step in first.items()]


def _weights(steps: Sequence[Step], kind: PriorKind) -> list[float]:
    """One weight a sample: how often it was drawn, its probability (the published choice), or that per token."""
    if kind == "multiplicity":
        return [1.0] * len(steps)
    scores = [sum(step.logprobs) for step in steps]
    if kind == "length-normalised":
        scores = [score / len(step.tokens) for score, step in zip(scores, steps, strict=True)]
    elif kind != "softmax":
        assert_never(kind)
    highest = max(scores)
    return [math.exp(score - highest) for score in scores]
