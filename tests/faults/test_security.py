"""Who may read what a run writes, and what may run when a file is read: its user alone, and nothing."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.launching import launched
from tests.support.runs import MOCK, SHORT, TSD, finish
from tsd.cli.app import app, exit_code
from tsd.engine.vllm_start import set_environment
from tsd.model.files import model_path
from tsd.model.policy import Policy

ROOT = Path(__file__).parent.parent.parent
TSD_SOURCES = sorted((ROOT / "tsd").rglob("*.py"))
OTHERS = 0o077

# Who may read


@pytest.mark.timeout(120)
def test_nothing_that_a_run_writes_is_open_to_others_whatever_the_umask(tmp_path: Path) -> None:
    run_dir, keys = tmp_path / "run", tmp_path / "keys"
    generous = ["bash", "-c", 'umask 0; exec "$@"', "bash"]
    subprocess.run([*generous, sys.executable, "-m", "tsd", "keys", str(keys)], check=True, timeout=50)
    options = ("--max-updates", "2", "--set", "observe.trajectories=true", "--set", f"transport.keys={keys}")
    with launched([*generous, *TSD, *MOCK, *SHORT, *options, "--run-dir", str(run_dir)]) as run:
        finish(run, 100)
    found = [run_dir, *run_dir.rglob("*"), keys, *keys.rglob("*")]
    kinds = {path.relative_to(run_dir).parts[0] for path in run_dir.rglob("*")}
    assert {
        "checkpoints",
        "logs",
        "spool",
        "alive",
        "metrics.jsonl",
        "config.toml",
        "summary.json",
        "used.jsonl",
    } <= kinds
    assert {str(path): oct(path.stat().st_mode) for path in found if path.stat().st_mode & OTHERS} == {}


# What runs when a file is read

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {"broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list"}


def dangers(source: str) -> Iterator[str]:
    """Calls and imports through which what was read could run."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.partition(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN_MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_NAMES:
                yield name
            case ast.Attribute(attr=attr) if attr in FORBIDDEN_ATTRIBUTES:
                yield attr
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save" as attr)):
                yield f"torch.{attr}"
            case ast.Call(keywords=given):
                allowed = {"allow_pickle", "trust_remote_code", "shell"}
                yield from (str(one.arg) for one in given if one.arg in allowed and not _is(one.value, False))


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", TSD_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_tsd_reads_pickles_or_runs_what_it_reads(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert list(dangers(source)) == []
    assert "INSECURE_SERIALIZATION" not in source or path.name == "vllm_start.py"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle\n", "pickle"),
        ("from pickle import loads\n", "pickle"),
        ("import torch\ntorch.load('x')\n", "torch.load"),
        ("torch.load('x', weights_only=True)\n", "torch.load"),
        ("torch.save({}, 'x')\n", "torch.save"),
        ("np.load('x', allow_pickle=True)\n", "allow_pickle"),
        ("A.from_pretrained('x', trust_remote_code=True)\n", "trust_remote_code"),
        ("subprocess.run('x', shell=True)\n", "shell"),
        ("dist.broadcast_object_list([1])\n", "broadcast_object_list"),
        ("eval('1')\n", "eval"),
    ],
)
def test_each_danger_would_be_found(source: str, found: str) -> None:
    assert list(dangers(source)) == [found]
    assert list(dangers("np.load('x', allow_pickle=False)\n")) == []


def test_vllm_does_not_unpickle_what_comes_over_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    monkeypatch.setattr(os, "environ", environ)
    set_environment(1)
    assert environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "0"


class Armed:
    """Pickled, it is a program that leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A model whose weights are a pickle that does something."""
    directory = tmp_path / "model"
    shutil.copytree(model_path("builtin:countdown-tiny"), directory)
    (directory / "model.safetensors").unlink()
    torch.save({"weights": Armed(tmp_path / "fired")}, directory / "pytorch_model.bin")
    return directory


def test_a_model_of_pickled_weights_is_refused_in_one_line_and_never_read(
    pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jsonl").write_text('{"input":[2,3],"target":6}\n')
    for arguments in (
        ("launch", "--set", f"model.path={pickled}", "--run-dir", str(tmp_path / "run")),
        ("solve", "2 3 = 6", "--model", str(pickled)),
        ("eval", "--model", str(pickled), "--data", str(tmp_path / "x.jsonl")),
    ):
        assert exit_code(lambda words=arguments: app(words)) == 2  # type: ignore[misc]
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: model.path: pytorch_model.bin in {pickled} may run code when it is read")
    with pytest.raises(ValueError, match=r"model\.path: cannot load the model in .*safetensors"):
        Policy.load(pickled)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "fired").exists()


def test_an_armed_pickle_would_have_fired(pickled: Path, tmp_path: Path) -> None:
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "fired").exists()


def test_a_model_without_any_weights_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(model_path("builtin:countdown-tiny"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.path: cannot load the model in .*model\.safetensors"):
        Policy.load(tmp_path / "model")
