"""A trained model on its own: what is in it, and what is said of it."""

from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tsd.config import Config, save_config
from tsd.learn.checkpoint import TrainState, save_checkpoint
from tsd.learn.learner import MockLearner
from tsd.learn.policy_learner import PolicyLearner
from tsd.learn.ranks import Ranks
from tsd.model.files import model_path
from tsd.report.export import export

STATE = TrainState(update=7, num_trajectories=224, generated_tokens=12_345)


def a_run(directory: Path, learner: PolicyLearner | MockLearner) -> None:
    save_config(Config(), directory / "config.toml")
    save_checkpoint(directory, STATE, learner.save)
    before = {"k": 16, "mean_at_k": 0.067, "ci95": [0.062, 0.072], "num_problems": 820, "temperature": 0.8}
    (directory / "before.json").write_bytes(msgspec.json.encode({**before, "format_rate": 0.966}))


def test_an_exported_model_is_the_checkpoints_and_plain(tmp_path: Path) -> None:
    learner = PolicyLearner(Config(), model_path(Config().model.path), None, Ranks())
    a_run(tmp_path, learner)
    checkpoint = export(tmp_path, tmp_path / "out")
    assert checkpoint.name == "update-000007"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("5 9 = 14", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, learner.policy.causal(tokens).logits, atol=1e-5)


def test_the_card_says_how_the_model_was_made(tmp_path: Path) -> None:
    a_run(tmp_path, PolicyLearner(Config(), model_path(Config().model.path), None, Ranks()))
    export(tmp_path, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "trained by tree-search distillation" in text
    assert "countdown with 4 numbers" in text
    assert "7 updates at a learning rate of 5e-05, from 224 trajectories; 12,345 tokens" in text
    assert "before training: mean@16 6.7% [6.2%, 7.2%] on 820 held-out problems" in text
    assert "after training" not in text
    assert "[search]" in text


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run directory"):
        export(tmp_path, tmp_path / "out")
    save_config(Config(), tmp_path / "config.toml")
    with pytest.raises(ValueError, match="no checkpoint yet"):
        export(tmp_path, tmp_path / "out")
    a_run(tmp_path, MockLearner(Config(), None, Ranks()))
    with pytest.raises(ValueError, match="mock engine"):
        export(tmp_path, tmp_path / "out")
