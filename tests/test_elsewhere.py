"""Prometheus, trackio and Weights & Biases, when asked for: all numbers are there, and nothing where nobody asked."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.rows import EVALUATION, ROW
from tsd.config import Config, ObserveConfig
from tsd.observe.metrics import EventRow, GeneratorRow
from tsd.observe.prometheus import Gauges, check_prometheus, serve_prometheus
from tsd.observe.weights_and_biases import open_wandb

GENERATOR = GeneratorRow(
    generator=1,
    version=3,
    num_trees=7,
    num_simulations=70,
    generated_tokens=900,
    simulations_per_s=12.5,
    tokens_per_s=250.0,
    solved_share=None,
    loop_lag_s=0.25,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_prometheus_finds_the_last_numbers_on_loopback_while_the_run_is_up() -> None:
    port = free_port()
    with serve_prometheus(port) as gauges:
        for row in (ROW, replace(ROW, update=2, loss=0.0625), GENERATOR, EVALUATION, EventRow(source="x", text="y")):
            gauges.write(row)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = set(answer.read().decode().splitlines())
    assert lines >= {
        "tsd_update 2.0",
        "tsd_loss 0.0625",
        'tsd_rewards{of="task"} 0.5',
        'tsd_ratio_quantiles{of="0.99"} 2.0',
        'tsd_generator_tokens_per_s{generator="1"} 250.0',
        'tsd_evaluation_mean_at_k{when="after"} 0.25',
    }
    assert not any(line.startswith(("tsd_explained_variance", "tsd_generator_solved_share")) for line in lines)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_prometheus_has_an_answer_before_anything_has_happened() -> None:
    assert list(Gauges().collect()) == []


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        expected = rf"observe\.prometheus_port: cannot listen on 127\.0\.0\.1:{port}"
        with pytest.raises(ValueError, match=expected), serve_prometheus(port):
            pass


def test_prometheus_is_asked_for_by_its_port_alone() -> None:
    check_prometheus(ObserveConfig())
    check_prometheus(ObserveConfig(prometheus_port=9400))


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.metrics: list[tuple[str, str]] = []
        self.finished = False

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, numbers: dict[str, float]) -> None:
        self.logged.append(numbers)

    def finish(self) -> None:
        self.finished = True


class FakeWandb:
    """Stands in for the package."""

    Error = RuntimeError
    Settings = dict

    def __init__(self, refusal: str = "") -> None:
        self.run, self.asked, self.refusal = FakeRun(), dict[str, Any](), refusal

    def init(self, **asked: Any) -> FakeRun:
        if self.refusal:
            raise self.Error(self.refusal)
        self.asked = asked
        return self.run


CONFIG = Config(observe=ObserveConfig(wandb="countdown"))


def test_wandb_gets_updates_and_evaluations_over_the_update(tmp_path: Path) -> None:
    fake = FakeWandb()
    with open_wandb(CONFIG, tmp_path, "abc", fake) as curves:
        for row in (ROW, replace(EVALUATION, num_done=1), GENERATOR, EVALUATION):
            curves.write(row)
        assert not fake.run.finished
    assert fake.run.finished
    assert fake.run.metrics == [("*", "update")]
    first, last = fake.run.logged
    assert (first["update"], first["loss"], first["rewards/task"]) == (1, 0.125, 0.5)
    assert last == {
        "update": 1,
        "evaluation/mean_at_k": 0.25,
        "evaluation/ci95/low": 0.125,
        "evaluation/ci95/high": 0.5,
    }
    assert (fake.asked["project"], fake.asked["id"], fake.asked["resume"]) == ("countdown", "abc", "allow")
    assert fake.asked["config"]["search"]["trees"] == CONFIG.search.trees


TRACKED = """
import sys
from pathlib import Path

from tests.support.rows import EVALUATION, ROW
from tsd.config import Config, ObserveConfig
from tsd.observe.trackio import open_trackio

for rows in ((ROW,), (EVALUATION,)):
    with open_trackio(Config(observe=ObserveConfig(trackio="countdown")), Path("some/run")) as curves:
        for row in rows:
            curves.write(row)
"""


def test_trackio_gets_updates_and_evaluations_and_a_resumed_run_goes_on_with_the_screen_left_alone(
    tmp_path: Path,
) -> None:
    # In a process of its own: trackio chooses its directory when it is imported.
    environ = {**os.environ, "TRACKIO_DIR": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", TRACKED], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout == ""
    with closing(sqlite3.connect(tmp_path / "countdown.db")) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("run", 1), ("run", 0)]
    update, evaluation = (json.loads(numbers) for *_, numbers in rows)
    assert (update["loss"], update["rewards/task"], evaluation["evaluation/mean_at_k"]) == (0.125, 0.5, 0.25)


def test_a_wandb_that_cannot_begin_is_one_line_with_its_remedy(tmp_path: Path) -> None:
    expected, refusing = (
        r"^observe\.wandb: no key found\. Try again; set WANDB_MODE",
        FakeWandb("no key found.\nTry again"),
    )
    with pytest.raises(ValueError, match=expected), open_wandb(CONFIG, tmp_path, "abc", refusing):
        pass
