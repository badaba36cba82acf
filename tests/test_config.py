"""The configuration: refused with its path where it is wrong, kept whole where it is right."""

from pathlib import Path

import pytest

from tsd.config import MAIN_JOB, Config, load_config, save_config
from tsd.launch import Request

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.agent=3", r"unknown field `agent`.*\$\.search"),
        ("search.agents=0", r">= 1.*\$\.search\.agents"),
        ("search.agents=x", r"\$\.search\.agents"),
        ("search.in_flight=magic", r"\$\.search\.in_flight"),
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
        None, ["engine.kind=mock", "task.num_numbers=[3, 4]", "search.c_puct=1.5", "gpus=cpu:gen,cpu:train"]
    )
    assert (config.engine.kind, config.task.num_numbers, config.search.c_puct) == ("mock", (3, 4), 1.5)


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


def test_an_advantage_left_open_suits_what_is_learned_from() -> None:
    def advantage(*settings: str) -> str:
        return load_config(MAIN_JOB, settings).advantage

    assert advantage() == "tree"
    assert advantage("search.kind=puct") == "sibling"
    assert advantage("method=cispo") == "group"
    assert advantage("method=best-of-n") == advantage("harvest.whole_tree=false") == "value"
    assert advantage("loss.advantage=value") == "value"
