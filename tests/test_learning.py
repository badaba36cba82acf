"""Losses against hand-computed figures, batches against their trajectories, updates against the mathematics."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.learning import AGAINST_VALUE, collate, policy, take_step, trajectory
from tsd.config import CispoConfig, PpoConfig
from tsd.learn.checkpoint import TrainState, latest_checkpoint, load_state, save_checkpoint
from tsd.learn.health import warnings
from tsd.learn.loss import kl_loss, policy_loss, value_loss
from tsd.learn.rows import lay_out
from tsd.learn.update import score
from tsd.model.policy import CHUNK_TOKENS
from tsd.model.sampling import log_policy
from tsd.types import Grade, Trajectory

HALF, DOUBLE = math.log(0.5), math.log(2.0)


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def test_ppo_clips_the_gain_and_never_the_loss() -> None:
    config, mask = PpoConfig(clip_low=0.2, clip_high=0.3), torch.ones(1, 4, dtype=torch.bool)
    logprobs, behaviour = row(DOUBLE, HALF, DOUBLE, HALF), torch.zeros(1, 4)
    loss = policy_loss(logprobs, behaviour, row(1.0, 1.0, -1.0, -1.0), mask, config)
    assert loss.item() == pytest.approx(-1.3 - 0.5 + 2.0 + 0.8)


def test_cispo_caps_the_ratio_but_keeps_every_gradient() -> None:
    config, mask = CispoConfig(max_ratio=1.5), torch.tensor([[True, True, False]])
    logprobs = row(DOUBLE - 3, -3.0, 7.0).requires_grad_()
    loss = policy_loss(logprobs, row(-3.0, -3.0, -3.0), row(2.0, -1.0, 5.0), mask, config)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-1.5 * 2 * (DOUBLE - 3) + 1 * (-3.0), rel=1e-5)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist()[0] == pytest.approx([-3.0, 1.0, 0.0])


def test_value_and_kl_losses_are_masked_sums() -> None:
    mask = torch.tensor([[True, False, True]])
    assert value_loss(row(0.5, 9.0, -1.0), row(1.0, 0.0, 1.0), mask).item() == pytest.approx(0.25 + 4.0)
    logprobs, reference = row(0.0, 5.0, HALF), row(HALF, 0.0, HALF)
    assert kl_loss(logprobs, reference, mask).item() == pytest.approx(0.5 - 1 + DOUBLE)


def test_an_update_tells_how_healthy_it_is() -> None:
    trajectories = [trajectory(5, 8, seed=i, reward=float(i % 2)) for i in range(4)]
    stats = take_step(policy(), trajectories, 1000)
    assert stats is not None
    assert 0 < stats.effective_sample_share <= 1
    assert list(stats.ratio_quantiles) == sorted(stats.ratio_quantiles)
    assert stats.explained_variance is not None
    assert stats.explained_variance < 0.5, "an untrained value head explains little"
    sick = msgspec.structs.replace(
        stats, effective_sample_share=0.1, kl=3.0, entropy=0.0, logprob_gap=0.5, explained_variance=-9.0
    )
    assert len(warnings(sick)) == 5
    fine = msgspec.structs.replace(
        stats, effective_sample_share=0.9, kl=0.1, entropy=1.0, logprob_gap=1e-6, explained_variance=0.2
    )
    assert not warnings(fine)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(AssertionError, match="differ"):
        value_loss(torch.zeros(2, 3), torch.zeros(1, 3), torch.ones(2, 3, dtype=torch.bool))


def test_micro_batches_hold_every_trajectory_once_within_the_token_limit() -> None:
    trajectories = [trajectory(5, 3 + i, seed=i) for i in range(10)]
    batches = collate(trajectories, max_tokens=40)
    assert sum(len(batch.tokens) for batch in batches) == 10
    assert all(batch.tokens.numel() <= 40 for batch in batches)
    assert sum(batch.num_tokens for batch in batches) == sum(len(t.tokens) for t in trajectories)
    alone = collate([trajectory(90, 10)], max_tokens=40)
    assert [tuple(batch.tokens.shape) for batch in alone] == [(1, 99)]


def test_every_token_of_a_response_is_predicted_by_the_one_before_it() -> None:
    one, two = trajectory(4, 3), trajectory(6, 2, seed=1)
    (batch,) = collate([one, two], 100)
    assert batch.attention is None
    for row, each in enumerate((two, one) if batch.mask[0].sum() == 2 else (one, two)):
        whole = [*each.prompt.tolist(), *each.tokens.tolist()]
        assert batch.tokens[row, : len(whole) - 1].tolist() == whole[:-1], "the last one predicts nothing"
        assert batch.sampled[row][batch.mask[row]].tolist() == each.tokens.tolist()
        first = len(each.prompt) - 1
        assert batch.sources[row][batch.mask[row]].tolist() == list(range(first, first + len(each.tokens)))
    assert batch.behaviour[batch.mask].tolist() == [-1.0] * 5
    assert batch.behaviour[~batch.mask].tolist() == [0.0]


def test_the_end_is_learned_from_also_where_it_is_the_token_that_pads() -> None:
    """Qwen's base models end a text with the token that they pad with."""
    end = int(collate([trajectory(5, 3), trajectory(5, 9, seed=1)], 100)[0].tokens.min())
    assert end == 0, "what this project pads with"
    ended = [
        replace_fields(one, tokens=np.append(one.tokens[:-1], np.int32(end)))
        for one in (trajectory(5, 1, reward=1.0), trajectory(5, 9, seed=1, reward=1.0))
    ]
    (batch,) = collate(ended, 1000)
    assert batch.num_tokens == 1 + 9
    assert (batch.sampled[batch.mask] == end).sum() == 2
    model = policy()
    before = score(model, batch, 1.0, torch.device("cpu"))
    assert take_step(model, ended[:1], 1000), "nothing but an end is something to learn"
    after = score(model, batch, 1.0, torch.device("cpu"))
    is_end = batch.mask & (batch.sampled == end)
    assert (after.logprobs > before.logprobs)[is_end].all()


def test_samples_of_one_prompt_share_it_and_their_beginnings_and_learn_what_they_would_alone() -> None:
    first = trajectory(6, 9, reward=1.0)
    second = replace_fields(first, serial=1, tokens=np.append(first.tokens[:4], first.tokens[4:] % 18 + 6), reward=-1.0)
    groups = [[first, second], [first, replace_fields(second, group="another")]]
    assert [sum(len(row) for row in lay_out(group, AGAINST_VALUE, 100)) for group in groups] == [6 + 4 + 4 + 4, 14 + 14]
    found = []
    for group in groups:
        model = policy()
        stats = take_step(model, group, 1000)
        assert stats is not None
        found.append((stats, list(model.parameters())))
    (together, one), (apart, other) = found
    assert together.loss == pytest.approx(apart.loss, rel=1e-5)
    assert together.ratio_mean == pytest.approx(apart.ratio_mean, rel=1e-5)
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def replace_fields(one: Trajectory, reward: float | None = None, **changes: Any) -> Trajectory:
    if reward is not None:
        changes |= {"grade": Grade(reward, reward == 1.0, True)}
    return msgspec.structs.replace(one, **changes)


def test_logprobs_and_values_do_not_depend_on_padding() -> None:
    short, long = trajectory(5, 4, seed=1), trajectory(9, 20, seed=2)
    model, device = policy(), torch.device("cpu")
    (together,), (alone,) = collate([short, long], 1000), collate([short], 1000)
    index = 0 if len(together.tokens[0].nonzero()) < len(together.tokens[1].nonzero()) else 1
    for field in ("logprobs", "values"):
        padded = getattr(score(model, together, 0.7, device), field)[index, : alone.mask.shape[1]]
        bare = getattr(score(model, alone, 0.7, device), field)[0]
        assert torch.allclose(padded[alone.mask[0]], bare[alone.mask[0]], atol=1e-5)


def test_scores_in_chunks_are_those_of_all_logits_at_once_and_so_are_gradients() -> None:
    tokens = torch.randint(2, 50, (5, 200), generator=torch.Generator().manual_seed(0))
    sources = torch.arange(9, 199).expand(5, -1)
    sampled = tokens[:, 10:]
    assert sampled.numel() > CHUNK_TOKENS, "several chunks"
    weights = torch.rand(sampled.shape, generator=torch.Generator().manual_seed(1))
    chunked, whole = policy(), policy()
    logprobs, values, entropies = chunked.score(tokens, sources, sampled, 0.7, use_cache=False)
    logits, all_values = whole(tokens, use_cache=False)
    log_probs = log_policy(logits, 0.7)[:, 9:199]
    expected = log_probs.gather(-1, sampled[..., None])[..., 0]
    expected_entropies = -(log_probs.exp() * log_probs).sum(-1)
    for found, right in ((logprobs, expected), (values, all_values[:, 9:199]), (entropies, expected_entropies)):
        assert torch.allclose(found, right, atol=1e-5)
    assert not entropies.requires_grad
    for one, scored in ((chunked, (logprobs, values)), (whole, (expected, all_values[:, 9:199]))):
        total = sum(((i + 1) * weights * part).mean() for i, part in enumerate(scored))
        assert isinstance(total, torch.Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        assert one.causal.lm_head.weight.grad is not None
    for (name, a), (_, b) in zip(chunked.named_parameters(), whole.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert b.grad is not None, name
        assert torch.allclose(a.grad, b.grad, atol=1e-5), name


def test_an_update_is_the_same_however_the_batch_is_cut() -> None:
    trajectories = [trajectory(6, 5 + i, seed=i, reward=1.0 - i / 3) for i in range(6)]
    whole, cut = policy(), policy()
    first, second = take_step(whole, trajectories, 10_000), take_step(cut, trajectories, 20)
    assert first is not None
    assert second is not None
    assert first.loss == pytest.approx(second.loss, rel=1e-4)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_learning_makes_what_did_better_than_expected_likelier_and_what_did_worse_rarer() -> None:
    for reward, sign in ((1.0, 1), (-1.0, -1)):
        model, one = policy(), trajectory(5, 8, reward=reward)
        (batch,) = collate([one], 1000)
        before = score(model, batch, 1.0, torch.device("cpu")).logprobs[batch.mask].sum().item()
        stats = take_step(model, [one], 1000)
        after = score(model, batch, 1.0, torch.device("cpu")).logprobs[batch.mask].sum().item()
        assert stats is not None
        assert stats.grad_norm > 0
        assert sign * (after - before) > 0


def test_a_value_head_that_is_far_off_does_not_hold_the_policy_back() -> None:
    trajectories = [trajectory(5, 8, seed=i, reward=1.0 - i) for i in range(3)]
    moved = []
    for c_value in (0.0, 100.0):
        model, config = policy(), CispoConfig(c_value=c_value, c_kl=0.0)
        assert take_step(model, trajectories, 1000, config=config, max_grad_norm=0.1)
        moved.append([parameter.clone() for parameter in model.causal.parameters()])
    assert not torch.equal(moved[0][0], next(policy().causal.parameters()))
    for a, b in zip(*moved, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    model, bad = policy(), trajectory(5, 8, logprob=math.nan)
    before = [parameter.clone() for parameter in model.parameters()]
    assert take_step(model, [bad], 1000) is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_weights_of_another_model_are_refused_before_anything_changes() -> None:
    from tsd.errors import WeightsError

    model, other = policy(), policy(1)
    update_ = other.weights(3)
    del update_.tensors["value_head.out.bias"]
    with pytest.raises(WeightsError, match=r"value_head\.out\.bias"):
        model.load_weights(update_)
    assert torch.equal(model.value_head.hidden.weight, policy().value_head.hidden.weight)


def test_a_checkpoint_is_whole_or_absent_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    def saves(path: Path) -> None:
        (path / "x").write_text("weights")

    for number in (1, 2, 3):
        save_checkpoint(tmp_path, TrainState(update=number), saves)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["update-000002", "update-000003"]

    def fails(path: Path) -> None:
        (path / "x").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        save_checkpoint(tmp_path, TrainState(update=4), fails)
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert load_state(newest).update == 3
