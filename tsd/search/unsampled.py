"""What the policy has not yet written from a state: sampling without replacement, over steps of many tokens.

The known steps form a trie of tokens, and their recorded logprobs say how much of the policy's probability leaves the
trie at each of its places. A new step leaves it at a place drawn in proportion to that, by a token that is not known
there, and goes on freely: exactly the policy, given that the step is new (Kool et al., 2019; Shi et al., 2020). The
tokens up to the place are known and are not generated again.
"""

import math
import random
from dataclasses import dataclass, field

from tsd.types import Step

NOTHING = 1e-6
"""Probability that is none: what rounding leaves of a place whose every token is known."""


@dataclass(slots=True)
class Place:
    """A beginning of known steps."""

    reach: float
    """The policy's probability of it."""
    known: dict[int, float] = field(default_factory=dict)
    """Tokens that known steps go on with, and the probability of each."""

    @property
    def mass(self) -> float:
        """The probability of coming here and going on with another token."""
        return max(0.0, self.reach * (1 - sum(self.known.values())))


class Unsampled:
    """The places of one state. `taken` ones are being sampled from, and count as if they were known."""

    __slots__ = ("_mass", "places", "taken")

    def __init__(self) -> None:
        self.places: dict[tuple[int, ...], Place] = {(): Place(1.0)}
        self.taken: set[tuple[int, ...]] = set()
        self._mass: float | None = 1.0

    def add(self, step: Step) -> None:
        """A step becomes known."""
        reach = 1.0
        for i, (token, logprob) in enumerate(zip(step.tokens, step.logprobs, strict=True)):
            place = self.places.setdefault(step.tokens[:i], Place(reach))
            place.known[token] = chance = math.exp(logprob)
            reach *= chance
        self._mass = None

    @property
    def mass(self) -> float:
        """The probability that a sample of the policy would be new."""
        if self._mass is None:
            self._mass = sum(place.mass for tokens, place in self.places.items() if tokens not in self.taken)
        return self._mass

    def draw(self, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Takes a place: its tokens, and those that must not follow. There must be `mass`; `give_back` frees it."""
        free = [(tokens, place.mass) for tokens, place in self.places.items() if tokens not in self.taken]
        (tokens,) = rng.choices([tokens for tokens, _ in free], [mass for _, mass in free])
        self.taken.add(tokens)
        self._mass = None
        return tokens, tuple(self.places[tokens].known)

    def give_back(self, tokens: tuple[int, ...]) -> None:
        """The sample from a place has come, or has failed."""
        self.taken.discard(tokens)
        self._mass = None
