"""The torch engine's decoder without its event loop: what shares keys and values with what, and stays right."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.support.engines import CASES, Served, make_engine, make_model
from tsd.engine.decoder import Decoder
from tsd.engine.prefix_cache import Prefix, PrefixCache
from tsd.engine.requests import Request
from tsd.model.policy import Policy
from tsd.model.sampling import nucleus
from tsd.model.text import HfCodec
from tsd.types import Finish

TOLERANCE = 1e-4


def never(tokens: Sequence[int], stops_at_step: bool) -> Finish | None:
    return None


def after_five(tokens: Sequence[int], stops_at_step: bool) -> Finish | None:
    return "step" if len(tokens) == 5 else None


def decoder(policy: Policy, finish: Callable[[Sequence[int], bool], Finish | None] = never) -> Decoder:
    return Decoder(policy, finish, temperature=0.8, max_samples=64, max_tokens=128, cache_bytes=2**24, seed=0)


def run(decoder: Decoder, requests: Sequence[Request]) -> None:
    """Admits one request a step, then goes on until all are done."""
    left = list(requests)
    while left or not decoder.idle:
        decoder.admit([left.pop(0)] if left else [])
        decoder.advance()


@pytest.fixture(scope="module", params=[CASES[0], CASES[1]], ids=lambda case: case.name)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    directory: Path = tmp_path_factory.mktemp(request.param.name)
    policy = make_model(request.param, directory)
    case = SimpleNamespace(temperature=0.8)
    return Served("torch", case, make_engine("torch", request.param, directory), policy, HfCodec(directory))  # type: ignore[arg-type]


def worst(served: Served, requests: Sequence[Request]) -> float:
    return max(max(served.differences(request.state, request.steps)) for request in requests)


def test_requests_of_different_sample_counts_share_a_batch(served: Served) -> None:
    requests = [
        Request(state[: 2 * i + 1], count, 6 + 5 * i, stops_at_step=False)
        for i, (state, count) in enumerate(zip(served.prompts(6), (16, 1, 3, 4, 7, 16), strict=True))
    ]
    run(decoder(served.policy), requests)
    assert [len(request.steps) for request in requests] == [request.num_samples for request in requests]
    assert worst(served, requests) <= TOLERANCE


def test_a_state_starts_from_the_longest_prefix_seen(served: Served) -> None:
    under_test, (state, *_) = decoder(served.policy, after_five), served.prompts(1, num_tokens=20)
    first = Request(state[:12], 4, 16, stops_at_step=True)
    run(under_test, [first])
    child = state[:12] + first.steps[0].tokens
    for longer, expected in ((child, 16), (child + state[12:], 16), (state, 11)):
        found = under_test.cache.longest(longer[:-1])
        assert found is not None
        assert len(found.tokens) == expected
        request = Request(longer, 4, 16, stops_at_step=True)
        run(under_test, [request])
        assert worst(served, [request]) <= TOLERANCE


def test_states_of_one_path_admitted_together_are_right(served: Served) -> None:
    (state,) = served.prompts(1, num_tokens=30)
    requests = [Request(state[:length], 5, 9, stops_at_step=True) for length in (30, 10, 20, 10, 1)]
    under_test = decoder(served.policy)
    under_test.admit(requests)
    run(under_test, [])
    assert worst(served, requests) <= TOLERANCE


def test_cancelled_requests_free_their_rows_at_any_time(served: Served) -> None:
    under_test = decoder(served.policy)
    requests = [Request(state, 6, 20, stops_at_step=True) for state in served.prompts(8)]
    under_test.admit(requests[:4])
    requests[0].cancelled = True  # before its first step
    under_test.advance()
    assert under_test.num_free == 64 - 3 * 6
    requests[1].cancelled = True
    run(under_test, requests[4:])
    assert [len(request.steps) for request in requests] == [0, 0, *[6] * 6]
    assert under_test.num_free == 64
    assert worst(served, requests[2:]) <= TOLERANCE


def test_the_same_seed_and_arrivals_give_the_same_samples(served: Served) -> None:
    def sample() -> list[tuple[int, ...]]:
        requests = [Request(state, 5, 12, stops_at_step=False) for state in served.prompts(4)]
        run(decoder(served.policy), requests)
        return [step.tokens for request in requests for step in request.steps]

    assert sample() == sample()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, 4), (0.876, 4), (0.875, 3), (0.76, 3), (0.75, 2), (0.51, 2), (0.5, 1), (1e-9, 1)],
)
def test_a_nucleus_is_the_fewest_likeliest_tokens_that_reach_top_p(top_p: float, kept: int) -> None:
    chances = torch.tensor([[0.125, 0.5, 0.125, 0.25], [0.25, 0.125, 0.5, 0.125]])
    likeliest = [[1, 3, 0, 2], [2, 0, 1, 3]]  # of equals the first
    for row, found in enumerate(nucleus(chances, top_p)):
        inside = likeliest[row][:kept]
        assert found.nonzero()[:, 0].tolist() == sorted(inside)
        assert torch.equal(found[inside], chances[row, inside])


def test_without_onednn_the_plain_product_serves(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    requests = [Request(state, 4, 12, stops_at_step=False) for state in served.prompts(3)]
    run(decoder(served.policy), requests)
    assert worst(served, requests) <= TOLERANCE


def test_bfloat16_is_as_close_as_its_rounding(tmp_path: Path) -> None:
    make_model(CASES[1], tmp_path)
    policy = Policy.load(tmp_path, "bfloat16")
    (state,), request = ((7, 8, 9, 10, 11),), Request((7, 8, 9, 10, 11), 4, 20, stops_at_step=False)
    run(decoder(policy), [request])
    for step in request.steps:
        with torch.no_grad():
            logits, _ = policy(torch.tensor([[*state, *step.tokens]]))
        expected = (logits[0, len(state) - 1 : -1] / 0.8).log_softmax(-1).gather(1, torch.tensor(step.tokens)[:, None])
        assert (expected[:, 0] - torch.tensor(step.logprobs)).abs().mean() < 0.1


def test_the_cache_drops_children_before_their_parents_and_counts_what_it_holds() -> None:
    cache, kv = PrefixCache(max_bytes=2 * 16), torch.zeros(4)
    parent = Prefix((1, 2), kv, None)
    children = [Prefix((1, 2, last), kv, parent) for last in (3, 4)]
    for child in children:
        cache.put(child)
    assert cache.longest((1, 2, 3, 9)) is parent
    assert cache.longest((1, 2, 4, 9)) is children[1]
    assert cache.longest((2,)) is None
    assert cache.num_bytes == 32
    cache.clear()
    assert cache.longest((1, 2, 4)) is None
    assert cache.num_bytes == 0
