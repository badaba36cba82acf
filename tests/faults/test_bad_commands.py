"""Forty bad inputs and more, as users give them: every one ends in a clear line and an exit code, none in a traceback.

Lines of our own are one line; where the option parser refuses, its box names the option.
"""

import re
from pathlib import Path

import pytest

from tests.support.command import tsd

RUN, NOWHERE = "a run directory", "/nowhere"
TINY = "builtin:countdown-tiny"

OURS = (
    ("launch --config /nowhere.toml", "cannot read /nowhere.toml"),
    ("launch --config BROKEN", "as TOML"),
    ("launch --config BINARY", "as TOML"),
    ("launch --set nonsense", "expected section.key=value"),
    ("launch --set method.agents=0", "method.agents"),
    ("launch --set method.agents=many", "method.agents"),
    ("launch --set method.agent=16", "did you mean method.agents?"),
    ("launch --set nowhere.key=1", "nowhere"),
    ("launch --set train.learning_rate=-1", "learning_rate"),
    ("launch --set train.learning_rate=nan", "learning_rate"),
    ("launch --set loss.kind=dpo", "expected cispo or ppo"),
    ("launch --set method=grpo", "choose by method.kind"),
    ("launch --set method.kind=grpo", "expected index or puct or groups or best-of-n"),
    ("launch --set engine.kind=null", "there is nothing to learn"),
    ("launch --set model.path=/nowhere", "found no config.json"),
    ("launch --set model.path=EMPTY", "found no config.json"),
    ("launch --set task.name=chess", "task.name"),
    ("launch --set reward.weights={beauty=1}", "beauty"),
    ("launch --set reward.weights={task=0}", "weights"),
    ("launch --set transport.host=localhost", "IPv4"),
    ("launch --set transport.scheme=tcp --set transport.host=10.0.0.5", "tsd keys"),
    ("launch --set transport.keys=/nowhere", "/nowhere"),
    ("launch --set engine.max_model_tokens=4096", "takes 512 tokens"),
    ("launch --set method.kind=groups --set method.agents=1", "agents"),
    ("launch --gpus 0-5:gen,6-7", "expected :gen or :train"),
    ("launch --gpus 0-5:gan,6-7:train", "expected gen or train"),
    ("launch --gpus 5-0:gen,6:train", "backwards"),
    ("launch --gpus 0:gen,1:train,1:train", "two trainers"),
    ("launch --gpus cpu:gen", "no device has the role train"),
    ("launch --gpus 0-5:gen,6-7:train", "no GPUs"),
    ("launch --resume /nowhere", "no config.toml there"),
    ("launch --resume /nowhere --run-dir x", "--resume"),
    ("launch --run-dir FULL", "is not empty"),
    ("launch --run-dir FILE", "cannot use"),
    ("eval --model /nowhere --data DATA", "found no config.json"),
    (f"eval --model {TINY} --data /nowhere.jsonl", "/nowhere.jsonl"),
    (f"eval --model {TINY} --data BROKEN", "BROKEN:1: expected"),
    (f"eval --model {TINY} --data BINARY", "BINARY"),
    (f"eval --model {TINY} --data NOTHING", "NOTHING"),
    (f"eval --model {TINY} --data DATA --temperature -1", "temperature"),
    ("solve words", "expected"),
    ("solve 5+13=18", "expected"),
    ("solve 5=5=5", "expected"),
    ("solve 5=31 --resume BROKEN", "is no tree"),
    ("solve 5=31 --resume /nowhere.json", "cannot read /nowhere.json"),
    ("tree BROKEN", "is no tree"),
    ("tree BINARY", "is no tree"),
    ("tree /nowhere.json", "cannot read /nowhere.json"),
    ("watch /nowhere", "no metrics in /nowhere"),
    ("watch EMPTY --svg x.svg", "no metrics in"),
    ("export /nowhere --out x", "/nowhere"),
    ("bugreport /nowhere", "not a run directory"),
    ("bench-search --agents 0", "--agents"),
    ("bench-search --agents many", "--agents"),
    ("bench-search --trees ,", "--trees"),
    ("data --out EMPTY --numbers 9", "num_numbers"),
    ("data --out FULL", "exist already; --force overwrites"),
    ("data --out FILE", "FILE"),
    ("warmstart --out FULL", "FULL"),
    ("keys FULL", "FULL"),
    ("config nothing", "no setting begins with"),
    ("doctor --config BROKEN", "as TOML"),
    ("doctor --gpus 9:gan", "expected gen or train"),
)
PARSERS = (
    ("frobnicate", "frobnicate"),
    ("launch --max-updates 0", "max-updates"),
    ("launch --no-such-option", "no-such-option"),
    ("eval", "model"),
    ("eval --model x --data y --k none", "--k"),
    ("solve", "Missing argument"),
    ("solve 5=31 --engine gpt", "engine"),
    ("soak --minutes 0", "minutes"),
    ("tree", "Missing argument"),
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the words in capitals stand for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "train.jsonl").write_text("mine\n")
    (tmp_path / "BROKEN").write_text("{[not anything\n")
    (tmp_path / "BINARY").write_bytes(bytes(range(256)))
    (tmp_path / "FILE").write_text("a file\n")
    (tmp_path / "NOTHING").write_text("\n\n")
    (tmp_path / "DATA").write_text('{"input":[2,3],"target":6}\n')
    return {path.name: str(path) for path in tmp_path.iterdir()}


def arguments(line: str, places: dict[str, str]) -> list[str]:
    return [re.sub(r"[A-Z]{4,}", lambda found: places.get(found[0], found[0]), word) for word in line.split()]


def contents(places: dict[str, str]) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}


@pytest.mark.parametrize(("line", "named"), OURS, ids=[line for line, _ in OURS])
def test_a_bad_input_is_one_line_that_names_it_and_nothing_is_lost(
    line: str, named: str, places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(places)
    assert tsd(*arguments(line, places)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (said,) = err.splitlines()
    assert said.startswith("error: ")
    assert named in said
    assert len(said) < 600
    assert contents(places) == before


@pytest.mark.parametrize(("line", "named"), PARSERS, ids=[line for line, _ in PARSERS])
def test_what_the_option_parser_refuses_names_the_option(
    line: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tsd(*line.split()) == 2
    err = capsys.readouterr().err
    assert named in err
    assert "Traceback" not in err


def test_there_are_forty_and_more() -> None:
    assert len(OURS) + len(PARSERS) >= 40
