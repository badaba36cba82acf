"""The published experiment's settings, as published, against the configuration that claims to be it."""

from pathlib import Path

import pytest

from tsd.config import load_config

CONFIG = Path(__file__).parent.parent / "configs" / "countdown-qwen2.5-1.5b.toml"
PUBLISHED: dict[str, object] = {
    "task.num_numbers": (4,),
    "task.rare": True,
    "task.num_train": 20_000,
    "model.path": "models/Qwen2.5-1.5B-Instruct",
    "engine.temperature": 0.8,
    "search.kind": "puct",
    "search.agents": 16,
    "search.trees": 2,
    "search.num_samples": 4,
    "search.simulations": 1600,
    "search.max_step_tokens": 64,
    "search.max_path_tokens": 512,
    "search.c_puct": 0.5,
    "search.in_flight": "virtual-loss",
    "search.virtual_loss": 1.0,
    "search.prior": "softmax",
    "harvest.whole_tree": False,
    "harvest.choose": "visits",
    "harvest.num_paths": 1,
    "sample.group_size": 16,
    "sample.best_of": 64,
    "loss.c_policy": 1.0,
    "loss.c_value": 1.0,
    "loss.c_kl": 0.05,
    "loss.value_reaches_trunk": True,
    "train.num_updates": 2048,
    "train.batch_size": 32,
    "train.num_inner_steps": 1,
    "train.learning_rate": 5e-6,
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
