"""Low-rank adapters: what learns, what is published, what is kept for a run that goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.tries import random_tree
from tsd.config import Config, load_config
from tsd.errors import WeightsError
from tsd.generator.adapted import AdaptedModel
from tsd.learn.policy_learner import PolicyLearner
from tsd.learn.ranks import Ranks
from tsd.model.files import model_path
from tsd.model.lora import merged
from tsd.model.policy import Policy, weight_update
from tsd.transport.deltas import num_elements

START = model_path("builtin:countdown-tiny")
TOKENS = torch.arange(6, 22)[None]


def configure(*settings: str) -> Config:
    common = ["train.learning_rate=1e-3", "loss.c_kl=0"]
    return load_config(None, [*common, *settings])


def learner(checkpoint: Path | None = None, rank: int = 4) -> PolicyLearner:
    return PolicyLearner(configure(f"train.lora_rank={rank}"), START, checkpoint, Ranks())


@torch.no_grad()
def logits(policy: Policy) -> torch.Tensor:
    return policy(TOKENS)[0]  # type: ignore[no-any-return]


def test_adapters_alone_learn_and_travel_and_are_merged_under_the_models_own_names() -> None:
    one, plain = learner(), Policy.load(START)
    num_learning = sum(p.numel() for p in one.policy.causal.parameters() if p.requires_grad)
    assert 0 < num_learning < 0.2 * sum(p.numel() for p in plain.causal.parameters())
    torch.testing.assert_close(logits(one.policy), logits(plain))
    assert one.learn([random_tree(seed) for seed in range(3)], 0, 0) is not None
    assert not torch.allclose(logits(one.policy), logits(plain), atol=1e-3)
    update = one.weights(1)
    assert num_elements(update) == num_learning + sum(p.numel() for p in one.policy.value_head.parameters())
    with AdaptedModel(START, "float32") as adapted:
        plain.load_weights(adapted.merge(update))
    torch.testing.assert_close(logits(one.policy), logits(plain), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_generator_merges_is_what_the_trainer_has_bit_for_bit(dtype: str) -> None:
    one = learner()
    with AdaptedModel(START, dtype) as adapted:
        for number in range(2):
            assert one.learn([random_tree(seed) for seed in range(3)], number, number) is not None
            update = adapted.merge(one.weights(number + 1))
            expected = weight_update(number + 1, merged(one.policy.named_tensors()), dtype)
            assert update.version == number + 1
            assert update.tensors.keys() == expected.tensors.keys()
            for name, tensor in expected.tensors.items():
                np.testing.assert_array_equal(update.tensors[name], tensor, err_msg=name)
            assert load_file(update.path).keys() == expected.tensors.keys()


def test_adapters_of_another_model_are_refused() -> None:
    update = learner().weights(1)
    update.tensors["value_head.other"] = np.zeros(3, np.float32)
    with (
        AdaptedModel(START, "float32") as adapted,
        pytest.raises(WeightsError, match=r"for another model, which has value_head\.other"),
    ):
        adapted.merge(update)


def test_a_checkpoint_is_a_plain_model_from_which_adapters_go_on_bit_for_bit(tmp_path: Path) -> None:
    batches = [[random_tree(seed) for seed in (number, number + 7)] for number in range(2)]
    one = learner()
    one.learn(batches[0], 0, 0)
    one.save(tmp_path)
    torch.testing.assert_close(logits(Policy.load(tmp_path)), logits(one.policy), atol=1e-5, rtol=1e-4)
    again = learner(tmp_path)
    for each in (one, again):
        assert each.learn(batches[1], 0, 1) is not None
    for (name, a), (_, b) in zip(one.policy.named_parameters(), again.policy.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_computing_activations_again_changes_no_gradient() -> None:
    trees = [random_tree(seed) for seed in range(3)]
    plain = PolicyLearner(configure(), START, None, Ranks())
    other = PolicyLearner(configure("train.activation_checkpointing=true"), START, None, Ranks())
    assert other.policy.causal.is_gradient_checkpointing
    first, second = plain.learn(trees, 0, 0), other.learn(trees, 0, 0)
    assert first is not None
    assert second is not None
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-5)
