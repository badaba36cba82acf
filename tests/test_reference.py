"""The reference of settings: complete, documented, and the page in the repository is today's."""

import itertools
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import tsd.config
from tests.support.command import tsd as run
from tsd.config import LossConfig, MethodConfig, kind, load_config
from tsd.config.reference import markdown, plain, reference
from tsd.config.sections import Config

PAGE = Path(tsd.config.__file__).parent / "README.md"


def leaves(table: dict[str, object], prefix: str = "") -> set[str]:
    """Paths of all settings; a table of free names, such as weights, is one setting."""
    sections = {name for name, value in table.items() if isinstance(value, dict) and not prefix}
    below = [leaves(table[name], f"{name}.") for name in sections]  # type: ignore[arg-type]
    return {f"{prefix}{name}" for name in table if name not in sections}.union(*below)


def test_every_setting_is_there_with_its_documentation() -> None:
    for method, loss in itertools.product(get_args(MethodConfig), get_args(LossConfig)):
        kinds = ("", kind(method()), kind(loss()))
        found = {one.path: one for section in reference() for one in section.settings if section.kind in kinds}
        whole = leaves(msgspec.to_builtins(Config(method=method(), loss=loss())))
        assert found.keys() == whole - {"method.kind", "loss.kind"}
        assert [path for path, one in found.items() if not one.text] == []
    assert found["search.trees"].default == "16"
    assert found["train.decay"].kind == "constant or linear or cosine"


def test_a_default_as_it_is_printed_can_be_set() -> None:
    defaults = ("", "index", "cispo")
    sections = [section for section in reference() if section.kind in defaults]
    settings = [f"{one.path}={one.default}" for section in sections for one in section.settings]
    assert load_config(None, settings) == Config()


def test_the_page_in_the_repository_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(reference()) + "\n", (
        "tsd config --markdown > tsd/config/README.md"
    )


def test_a_prefix_selects_and_an_unknown_one_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = plain(reference(), "method.agents")
    assert shown.startswith("method.agents = 16    a whole number from 1, of kind index\n    Coroutines")
    assert "of kind puct" in shown
    assert run("config", "nothing") == 2
    assert capsys.readouterr().err.startswith("error: no setting begins with 'nothing'; sections: task, reward")
