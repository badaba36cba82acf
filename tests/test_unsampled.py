"""Sampling without replacement: exactly the policy, given that a step is new."""

import itertools
import math
import random

import pytest

from tests.support.fakes import step
from tsd.search.unsampled import NOTHING, Unsampled
from tsd.types import Step

LENGTH, WORDS = 3, (1, 2, 3)
STEPS: list[tuple[int, ...]] = list(itertools.product(WORDS, repeat=LENGTH))


def chance(tokens: tuple[int, ...]) -> float:
    """The last token's, after those before it: a policy of three words that depends on all of them."""
    weights = [1 + (7 * sum(tokens[:-1]) + 3 * len(tokens) + 5 * word) % 11 for word in WORDS]
    return weights[WORDS.index(tokens[-1])] / sum(weights)


def whole(tokens: tuple[int, ...]) -> float:
    return math.prod(chance(tokens[: i + 1]) for i in range(len(tokens)))


def known(tokens: tuple[int, ...]) -> Step:
    return Step(tokens, [math.log(chance(tokens[: i + 1])) for i in range(len(tokens))], (0.0,) * LENGTH, "step", 0)


@pytest.mark.parametrize("num_known", [1, 2, 7, 20, 26])
def test_a_new_step_is_as_likely_as_the_policy_has_it_among_those_that_are_new(num_known: int) -> None:
    seen = random.Random(num_known).sample(STEPS, num_known)
    unsampled = Unsampled()
    for tokens in seen:
        unsampled.add(known(tokens))
    left = 1 - sum(map(whole, seen))
    assert unsampled.mass == pytest.approx(left, abs=1e-12)
    for tokens in STEPS:
        # The place where it leaves the known steps, its next token there among those not excluded, then freely on.
        shared = max((n for n in range(LENGTH) if tokens[:n] in unsampled.places), default=0)
        place = unsampled.places[tokens[:shared]]
        if tokens in seen:
            assert tokens[shared] in place.known
            continue
        first = chance(tokens[: shared + 1]) / (1 - sum(place.known.values()))
        rest = math.prod(chance(tokens[: i + 1]) for i in range(shared + 1, LENGTH))
        assert place.mass / unsampled.mass * first * rest == pytest.approx(whole(tokens) / left, rel=1e-9)


def test_places_are_drawn_in_proportion_to_their_mass() -> None:
    unsampled, rng = Unsampled(), random.Random(0)
    for tokens in ((1, 1, 1), (1, 2, 3), (3, 1, 1)):
        unsampled.add(known(tokens))
    expected = {at: place.mass / unsampled.mass for at, place in unsampled.places.items()}
    count = dict.fromkeys(expected, 0)
    for _ in range(20_000):
        drawn, excluded = unsampled.draw(rng)
        assert set(excluded) == set(unsampled.places[drawn].known)
        unsampled.give_back(drawn)
        count[drawn] += 1
    assert all(count[at] / 20_000 == pytest.approx(share, abs=0.015) for at, share in expected.items())


def test_a_place_under_way_counts_as_known_until_it_is_given_back() -> None:
    unsampled, rng = Unsampled(), random.Random(0)
    assert unsampled.draw(rng) == ((), ())
    assert unsampled.mass == 0
    unsampled.give_back(())
    assert unsampled.mass == 1


def test_nothing_is_left_when_every_step_is_known() -> None:
    unsampled = Unsampled()
    for tokens in STEPS:
        unsampled.add(known(tokens))
    assert unsampled.mass < NOTHING


def test_a_step_of_certain_tokens_leaves_nothing() -> None:
    unsampled = Unsampled()
    unsampled.add(step(4, 5, 6, logprob=0.0))
    assert unsampled.mass == 0
