"""The published experiment's settings, as published, against the configuration that claims to be it."""

from pathlib import Path

import pytest

from tsd.config import BestOfConfig, CispoConfig, GroupsConfig, PuctConfig, load_config

CONFIG = Path(__file__).parent.parent / "configs" / "countdown-qwen2.5-1.5b.toml"
PUBLISHED: dict[str, object] = {
    "task.num_numbers": (4,),
    "task.rare": True,
    "task.num_train": 20_000,
    "model.path": "Qwen/Qwen2.5-1.5B-Instruct",
    "engine.temperature": 0.8,
    "method.__class__": PuctConfig,
    "method.agents": 16,
    "search.trees": 2,
    "method.num_samples": 4,
    "method.simulations": 1600,
    "search.max_step_tokens": 64,
    "search.max_path_tokens": 512,
    "method.c_puct": 0.5,
    "method.virtual_loss": 1.0,
    "method.prior": "softmax",
    "loss.__class__": CispoConfig,
    "loss.max_ratio": 5.0,
    "loss.c_value": 1.0,
    "loss.c_kl": 0.05,
    "loss.value_reaches_trunk": True,
    "train.num_updates": 2048,
    "train.batch_size": 32,
    "train.num_inner_steps": 1,
    "train.learning_rate": 5e-6,
    "train.value_rate": 1.0,
    "train.max_grad_norm": 0.1,
    "train.publish_every": 8,
    "evaluate.num_problems": 820,
    "evaluate.k": 16,
    "evaluate.temperature": 0.2,
    "gpus": "0-5:gen,6-7:train",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_setting_of_the_published_configuration_is_as_published(name: str) -> None:
    found: object = load_config(CONFIG)
    for part in name.split("."):
        found = getattr(found, part)
    assert found == PUBLISHED[name]


def test_the_baselines_are_as_large_as_published() -> None:
    assert GroupsConfig().num_samples == 16
    assert BestOfConfig().num_samples == 64
