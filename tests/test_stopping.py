"""A launcher in a process of its own, ended by signals: in order, at once, or killed. Scripts are its children."""

import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.launching import FAKE, GONE_AFTER_S, PATIENCE_S, Launched, launched, until
from tsd.model.files import model_path
from tsd.observe.metrics import MetricsReader, Told

DRIVER = """
import sys
from pathlib import Path
from rich.console import Console
from tsd.cli.app import exit_code
from tsd.run.launch import Request, launch
from tsd.run.supervisor import Programs

fake, run_dir, how = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
roles = ("hang" if how == "hang" else "evaluate", "trainer", "generator")
programs = Programs(*((sys.executable, fake, role) for role in roles))
new = {"run_dir": run_dir, "gpus": "cpu:gen,cpu:gen,cpu:train,cpu:train"}
settings = {"resume": run_dir} if how == "resume" else new
request = Request(overrides=("engine.kind=mock",), max_updates=5, **settings)
sys.exit(exit_code(lambda: launch(request, Console(), programs=programs)))
"""


def _launched(run_dir: Path, how: str = "new") -> AbstractContextManager[Launched]:
    return launched([sys.executable, "-c", DRIVER, str(FAKE), str(run_dir), how])


def _events(run_dir: Path) -> list[str]:
    return [row.text for row in MetricsReader(run_dir).read() if isinstance(row, Told)]


def _searching(run_dir: Path) -> bool:
    return all((run_dir / f"searching-generator-{index}").exists() for index in (0, 1))


@contextmanager
def _in_training(run_dir: Path) -> Iterator[Launched]:
    with _launched(run_dir) as launched:
        # The launcher makes the directory; the fakes wait in it for nothing but `crashes`, which must be there first.
        until((run_dir / "config.toml").exists, "the run directory")
        (run_dir / "crashes").write_text("0")
        until(lambda: _searching(run_dir), "generators to search")
        # Launcher, guardian, two trainers, two generators with a grandchild each.
        until(lambda: len(launched.alive()) == 8, "eight processes")
        yield launched


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_a_run_in_order_and_resume_continues(tmp_path: Path, number: signal.Signals, code: int) -> None:
    run_dir = tmp_path / "run"
    with _in_training(run_dir) as launched:
        launched.process.send_signal(number)
        output, _ = launched.process.communicate(timeout=GONE_AFTER_S)
        assert launched.process.returncode == code
        assert output.splitlines()[-1] == f"stopped; continue with: tsd launch --resume {run_dir}"
        assert launched.alive() == []
    assert (run_dir / "checkpoints" / "update-000003" / "state.json").exists()
    (run_dir / "release").touch()
    with _launched(run_dir, "resume") as launched:
        assert launched.process.wait(GONE_AFTER_S) == 0
        assert launched.alive() == []
    assert json.loads((run_dir / "summary.json").read_text())["num_updates"] == 5


def test_a_run_whose_terminal_is_gone_is_told_twice_and_ends_with_its_last_words(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with _in_training(run_dir) as launched:
        assert launched.process.stdout is not None
        launched.process.stdout.close()
        for _ in range(2):
            launched.process.send_signal(signal.SIGHUP)
        assert launched.process.wait(GONE_AFTER_S) == 129
        assert launched.alive() == []
    assert (run_dir / "checkpoints" / "update-000003" / "state.json").exists(), "the trainer wrote a checkpoint"
    assert any(text.startswith("stopping: on SIGHUP") for text in _events(run_dir))


def test_under_nohup_a_run_goes_on_without_its_terminal(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as a child inherits it
    try:
        with _in_training(run_dir) as launched:
            launched.process.send_signal(signal.SIGHUP)
            (run_dir / "release").touch()
            assert launched.process.wait(GONE_AFTER_S) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_output_is_closed_goes_on_and_says_so(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with _in_training(run_dir) as launched:
        assert launched.process.stdout is not None
        launched.process.stdout.close()
        (run_dir / "release").touch()
        assert launched.process.wait(GONE_AFTER_S) == 0
        assert launched.alive() == []
    said = [text for text in _events(run_dir) if text.startswith("nobody reads the output any more (Broken pipe)")]
    assert len(said) == 1
    assert json.loads((run_dir / "summary.json").read_text())["num_updates"] == 5


@pytest.mark.timeout(90)
def test_a_killed_launcher_leaves_no_process_and_resume_continues(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with _in_training(run_dir) as launched:
        launched.process.kill()
        (run_dir / "release").touch()
        killed_at = time.monotonic()
        # At once: it waits for the processes of the killed one, which include two that ignore SIGTERM.
        with _launched(run_dir, "resume") as resumed:
            until(lambda: launched.alive() == [], "every process to end", GONE_AFTER_S)
            assert time.monotonic() - killed_at < GONE_AFTER_S
            assert resumed.process.wait(PATIENCE_S) == 0
    assert json.loads((run_dir / "summary.json").read_text())["num_updates"] == 5


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with _launched(run_dir) as launched:
        until((run_dir / "config.toml").exists, "the run directory")
        (run_dir / "crashes").write_text("0")
        until(lambda: _searching(run_dir), "generators to search")
        launched.process.send_signal(signal.SIGINT)
        launched.process.send_signal(signal.SIGTERM)
        assert launched.process.wait(GONE_AFTER_S) in (130, 143)
        assert launched.alive() == []


def test_a_signal_ends_an_evaluation(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with _launched(run_dir, "hang") as launched:
        until((run_dir / "started-evaluate-0").exists, "the evaluation to start")
        launched.process.send_signal(signal.SIGTERM)
        assert launched.process.wait(GONE_AFTER_S) == 143
        assert launched.alive() == []
    assert not list(run_dir.glob("started-trainer-*"))


@pytest.mark.timeout(90)
def test_a_command_that_is_interrupted_ends_as_shells_expect(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_path("builtin:countdown-tiny"), model)
    command = [sys.executable, "-m", "tsd", "calibrate", "--model", str(model), "--problems", "100000"]
    with launched(command) as run:
        until(lambda: any(run.process.pid == one.pid and one.num_threads() > 1 for one in run.alive()), "its start")
        run.process.send_signal(signal.SIGINT)
        output, _ = run.process.communicate(timeout=GONE_AFTER_S)
    assert (run.process.returncode, output.splitlines()[-1]) == (130, "stopped")
