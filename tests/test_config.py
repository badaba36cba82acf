"""The configuration: refused with its path where it is wrong, kept whole where it is right."""

from pathlib import Path

import pytest

from tsd.config import MAIN_JOB, Config, GroupsConfig, IndexConfig, PuctConfig, load_config, save_config
from tsd.run.launch import Request

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.tree=3", r"unknown field `tree`.*\$\.search`; did you mean search\.trees\?"),
        ("search.agents=3", r"unknown field `agents`.*; did you mean method\.agents\?"),
        ("search.zebra=3", r"unknown field `zebra`.*; `tsd config` lists the settings"),
        ("engine.top_p=0.9", r"unknown field `top_p`.*\$\.engine`; training samples the whole policy, or its ratios"),
        ("method.top_k=20", r"unknown field `top_k`.*\$\.method`; training samples the whole policy, or its ratios"),
        ("search.min_p=0.1", r"unknown field `min_p`.*\$\.search`; training samples the whole policy, or its ratios"),
        ("method.num_samples=3", r"; it is a setting of method\.kind = puct or groups or best-of-n"),
        ("method.agents=0", r">= 1.*\$\.method\.agents"),
        ("method.agents=x", r"\$\.method\.agents`; expected a whole number from 1"),
        ("method.kind=mcts", r"\$\.method\.kind`; expected index or puct or groups or best-of-n"),
        ("method=mcts", r"method: expected a table, found 'mcts'; choose by method\.kind"),
        ("loss.kind=grpo", r"\$\.loss\.kind`; expected cispo or ppo"),
        ("train.decay=magic", r"\$\.train\.decay`; expected constant or linear or cosine"),
        ("engine.kind=vlm", r"\$\.engine\.kind`; expected torch or vllm or mock or null"),
        ("train.learning_rate=inf", r"\$\.train\.learning_rate"),
        ("loss.c_kl=1e999", r"\$\.loss\.c_kl"),
        ("seed=1e22", r"\$\.seed"),
        ("seed=10000000000000000000000", r"\$\.seed"),
        ("nowhere.key=1", "unknown field `nowhere`"),
        ("train.learning_rate=-1", r"\$\.train\.learning_rate"),
        ("engine.kind", "expected section.key=value"),
        ("seed.x=1", "x"),
    ],
)
def test_a_bad_setting_is_refused_with_its_path(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, ["seed=1", override])


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[search\n")
    with pytest.raises(ValueError, match=r"bad\.toml"):
        load_config(path)
    with pytest.raises(ValueError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")


def test_overrides_take_numbers_strings_and_lists() -> None:
    config = load_config(
        None, ["engine.kind=mock", "task.num_numbers=[3, 4]", "train.weight_decay=1.5", "gpus=cpu:gen,cpu:train"]
    )
    assert (config.engine.kind, config.task.num_numbers, config.train.weight_decay) == ("mock", (3, 4), 1.5)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    save_config(config, tmp_path / "saved.toml")
    assert load_config(tmp_path / "saved.toml") == config


def test_the_main_job_is_the_file_that_lies_with_the_others() -> None:
    main = load_config(CONFIGS / "countdown-cpu.toml")
    assert load_config(MAIN_JOB) == main
    assert Request().resolve() == main
    assert main != Config(), "the settings that were found"


def test_a_kind_begins_with_its_own_defaults_whatever_the_file_says_of_another(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[method]\nkind = "puct"\nmax_tokens = 7\nsolutions = 5\n')
    assert load_config(path).method == PuctConfig(max_tokens=7, solutions=5)
    assert load_config(path, ["method.agents=3"]).method == PuctConfig(agents=3, max_tokens=7, solutions=5)
    assert load_config(path, ["method.solutions=2", "method.kind=groups"]).method == GroupsConfig(solutions=2)
    assert load_config(path, ["method.kind=puct"]).method == PuctConfig(max_tokens=7, solutions=5)
    assert load_config(None, ["method.agents=3"]).method == IndexConfig(agents=3)
