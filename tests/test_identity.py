"""What a run's processes say of themselves: the same for all of a run and over its resumes, another for another run."""

import shutil
from pathlib import Path

import msgspec
import pytest

from tsd.config import Config, load_config
from tsd.model.files import model_path, tokenizer_hash
from tsd.run import rundir
from tsd.run.identity import RUN_ID_FILE, identify
from tsd.transport.hello import Hello, mismatch

MOCK = load_config(None, ["engine.kind=mock"])


def on_model(directory: Path) -> Config:
    return load_config(None, [f"model.path={directory}"])


def test_a_run_keeps_its_id_and_another_has_another(tmp_path: Path) -> None:
    for name in "ab":
        rundir.create(tmp_path / name)
    first, second = (identify(tmp_path / name, MOCK) for name in "ab")
    assert len(first.run) == 16
    assert identify(tmp_path / "a", MOCK) == first
    assert mismatch(first, second) == ("run", f"expected run {first.run!r}, found {second.run!r}")


def test_a_run_from_before_there_were_ids_has_an_empty_one_for_all_its_processes(tmp_path: Path) -> None:
    rundir.create(tmp_path / "run")
    (tmp_path / "run" / RUN_ID_FILE).unlink()
    assert identify(tmp_path / "run", MOCK) == Hello(run="", tokenizer="")


def test_the_tokenizers_files_are_told_apart_and_weights_do_not_count(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_path("builtin:countdown-tiny"), model)
    before = identify(tmp_path, on_model(model))
    assert before.tokenizer == tokenizer_hash(model_path("builtin:countdown-tiny"))
    (model / "model.safetensors").write_bytes(b"other weights")
    assert identify(tmp_path, on_model(model)) == before
    (model / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes() + b" ")
    wrong = mismatch(before, identify(tmp_path, on_model(model)))
    assert wrong is not None
    assert wrong[0] == "tokenizer"


@pytest.mark.parametrize("field", ["protocol", "run", "tokenizer"])
def test_one_difference_is_enough_and_none_is_none(field: str) -> None:
    hello = Hello(run="r", tokenizer="t")
    assert mismatch(hello, hello) is None
    wrong = mismatch(hello, msgspec.structs.replace(hello, **{field: 7}))
    assert wrong is not None
    assert wrong[0] == field
