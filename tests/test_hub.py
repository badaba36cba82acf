"""Models by name, from a hub on loopback: what is fetched, what is kept, and what is said where that cannot be."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import REVISION, Hub, serving
from tests.support.launching import launched
from tests.support.runs import SMALL, TSD, finish, updates
from tests.test_reward_model import make_classifier
from tsd.config import load_config
from tsd.model.files import hub_name, model_path

TINY, GATED, PICKLED, JUDGE = "tsd/tiny", "tsd/gated", "tsd/pickled", "tsd/judge"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The built-in model, with pickled weights beside; the same without safetensors; and a reward model."""
    root = tmp_path_factory.mktemp("hub")
    models = {name: root / name for name in (TINY, GATED, PICKLED, JUDGE)}
    for name in (TINY, GATED, PICKLED):
        shutil.copytree(model_path("builtin:countdown-tiny"), models[name])
        (models[name] / "pytorch_model.bin").write_bytes(b"any program")
    (models[PICKLED] / "model.safetensors").unlink()
    make_classifier(models[JUDGE], 1)
    with serving(Hub(models, frozenset({GATED}))) as found:
        yield found


def environment(hub: Hub, cache: Path, **more: str) -> dict[str, str]:
    hub_only = {"HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    return {**os.environ, **hub_only, **more}


def tsd(arguments: tuple[str, ...], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "tsd", *arguments)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=50, check=False)


def files_of(cache: Path) -> set[Path]:
    return set(cache.glob("hub/models--*/snapshots/*/*"))


@pytest.mark.timeout(180)
def test_a_run_trains_a_model_by_its_name(hub: Hub, tmp_path: Path) -> None:
    run_dir, cache, start = tmp_path / "run", tmp_path / "cache", len(hub.given)
    names = ("--set", f"model.path={TINY}@v1", "--set", f"reward.model={JUDGE}")
    options = (*SMALL, *names, "--set", "reward.weights={task=1, model=0.1}", "--gpus", "cpu:gen,cpu:train")
    env = ("env", *(f"{name}={value}" for name, value in environment(hub, cache).items()))
    with launched((*env, *TSD, *options, "--max-updates", "2", "--run-dir", str(run_dir))) as run:
        printed = finish(run, 150)
    assert printed.count("unless it is in") == 2, "a line for each model"
    config = load_config(run_dir / "config.toml")
    assert (config.model.path, config.reward.model) == (f"{TINY}@{REVISION}", f"{JUDGE}@{REVISION}")
    assert len(updates(run_dir)) == 2
    assert len(hub.given) - start == len(files_of(cache)), "each file once, for all processes"
    assert {"model.safetensors", "value_head.safetensors"} < {path.name for path in files_of(cache)}
    assert "pytorch_model.bin" not in hub.given


def test_a_dry_run_fetches_no_more_than_the_shape(hub: Hub, tmp_path: Path) -> None:
    start = len(hub.given)
    ended = tsd(("launch", "--dry-run", "--set", f"model.path={TINY}"), environment(hub, tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "from its config.json" in ended.stdout
    assert hub.given[start:] == ["config.json"]


def test_a_dry_run_without_a_hub_estimates_by_the_name(hub: Hub, tmp_path: Path) -> None:
    wanted = ("launch", "--dry-run", "--set", "model.path=tsd/big-7B")
    ended = tsd(wanted, environment(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert "an estimate from 7B in its name" in ended.stdout


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        (TINY, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, and "),
        (TINY, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached, and "),
        (GATED, {}, f"{GATED} is gated; accept its terms at http://127.0.0.1:"),
        ("tsd/none", {}, "there is no directory tsd/none here, and no such model at http://127.0.0.1:"),
        (f"{TINY}@v2", {}, f"{TINY} has no revision v2; see http://127.0.0.1:"),
        (PICKLED, {}, f"{PICKLED} has no model*.safetensors, and tsd reads no other weights"),
    ],
)
def test_what_cannot_be_had_is_one_line(name: str, more: dict[str, str], said: str, hub: Hub, tmp_path: Path) -> None:
    asked = ("launch", "--set", f"model.path={name}", "--run-dir", str(tmp_path / "run"))
    ended = tsd(asked, environment(hub, tmp_path / "cache", **more))
    assert ended.returncode == 2
    first, last = ended.stderr.splitlines()
    assert first.startswith(f"{name}: from http://127.0.0.1:")
    assert last.startswith(f"error: model.path: {said}")
    assert not (tmp_path / "run").exists()
    assert "pytorch_model.bin" not in hub.given


@pytest.mark.timeout(120)
def test_every_command_that_takes_a_model_takes_a_name(hub: Hub, tmp_path: Path) -> None:
    """Once the files are there, at a named revision without the hub."""
    problems = tmp_path / "x.jsonl"
    problems.write_text('{"input":[2,3],"target":6}\n')
    commands = (
        ("doctor", "--quick", "--set", f"model.path={TINY}"),
        ("eval", "--data", str(problems), "--k", "1", "--model", TINY),
        ("eval", "--search", "--data", str(problems), "--set", "method.max_tokens=50", "--model", TINY),
        ("solve", "2 3 = 6", "--tokens", "50", "--model", TINY),
        ("calibrate", "--problems", "1", "--model", TINY),
        ("bench-search", "--engine", "torch", "--agents", "1", "--simulations", "2", "--model", TINY),
    )
    each = f"from tests.support.command import tsd; print([tsd(*command) for command in {commands}])"
    command = [sys.executable, "-c", each]
    ended = subprocess.run(command, env=environment(hub, tmp_path), capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1] == str([0] * len(commands)), ended.stderr
    there = environment(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert tsd(("solve", "2 3 = 6", "--tokens", "50", "--model", f"{TINY}@{REVISION}"), there).returncode == 0


def test_a_directory_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name(TINY) == (TINY, "main")
    shutil.copytree(model_path("builtin:countdown-tiny"), TINY)
    assert hub_name(TINY) is None
    assert model_path(TINY) == Path(TINY)


@pytest.mark.parametrize("path", ["/a/b", "./a", "../a", "~/a", "a", "a/b/c", "builtin:x/y", "a/b@", "a/b c", ""])
def test_what_is_no_name_is_a_path(path: str) -> None:
    assert hub_name(path) is None


def test_a_process_that_finds_no_model_in_the_cache_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"no directory tsd/none is here.*; hf download tsd/none --revision v1"):
        model_path("tsd/none@v1")
