"""Clocks that jump: nothing waits by them, nothing is named by them alone, nobody is killed for them."""

import ast
import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.drawing import absorbed, make_event, make_phase
from tests.support.launching import launched
from tests.support.runs import MOCK, SHORT, TSD, finish, summary, updates
from tsd.config import load_config
from tsd.config.devices import parse_gpus
from tsd.observe.metrics import MetricsReader, MetricsWriter, Told
from tsd.run import child
from tsd.run.child import BEATS
from tsd.run.processes import Child, Children
from tsd.run.supervisor import Phases, Run

ROOT = Path(__file__).parent.parent.parent
HOUR_S = 3600.0
JUMPS_S = (HOUR_S, -HOUR_S, 24 * HOUR_S, 0.0, -400 * 24 * HOUR_S)

# Frozen processes


class Killed:
    """In place of `Children`: says who was killed."""

    def __init__(self) -> None:
        self.names = list[str]()

    def kill_one(self, child: Child) -> None:
        self.names.append(child.name)


class FakeProcess:
    pid = 1


def beat_at(path: Path, wall_s: float) -> None:
    """A beat as it comes out when the clock says so."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (wall_s, wall_s))


@pytest.mark.parametrize("jump_s", JUMPS_S)
async def test_a_process_that_beats_is_let_live_whatever_the_clock_says(jump_s: float, tmp_path: Path) -> None:
    config = load_config(None, ["engine.kind=mock", "transport.frozen_s=1"])
    run, children = Run(config, parse_gpus("cpu:gen,cpu:train"), tmp_path, {}), Killed()
    with MetricsWriter(tmp_path) as metrics:
        phases = Phases(run, cast(Children, children), metrics, "")
        one = Child("generator-0", cast(asyncio.subprocess.Process, FakeProcess()), tmp_path / "log")
        watching = asyncio.create_task(phases.watch(one))
        path, started, number = tmp_path / BEATS / one.name, time.monotonic(), 0
        while time.monotonic() - started < 2.0:
            number += 1
            await asyncio.to_thread(beat_at, path, time.time() + (jump_s if number >= 6 else 0) + number * 1e-3)
            await asyncio.wait({watching}, timeout=0.1)
        assert (children.names, watching.done()) == ([], False)
        await asyncio.wait({watching}, timeout=5)
        assert children.names == ["generator-0"], "and once it beats no more it is killed"


# Names


def test_lives_that_begin_at_the_same_moment_of_the_clock_have_different_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "time", StoppedClock())
    assert len({child.new_life() for _ in range(1000)}) == 1000


class StoppedClock:
    def time_ns(self) -> int:
        return 1_700_000_000 * 10**9


def test_the_time_of_a_run_does_not_run_backwards() -> None:
    state = absorbed([make_phase("launched", 1000.0), make_phase("training", 1060.0), make_event("a row", 400.0)])
    assert state.elapsed(now=100.0) == 60.0
    assert state.elapsed(now=405.0) == 65.0


# Where the clock is asked

SHOWN_OR_NAMED = {
    "run/child.py": "a part of a life's name, beside a random one",
    "cli/app.py": "the name of a soak's directory",
    "run/launch.py": "the name of a run's directory",
    "observe/dashboard.py": "what the time is",
    "observe/metrics.py": "when a row was written",
    "solve/serve.py": "when an answer was made, as OpenAI's clients are told",
}
"""Modules that read the wall clock, and what for. Who waits, or measures, goes by `time.monotonic`."""
WALL = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("datetime", "now"), ("time", "strftime")}


def wall_clocks(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in WALL:
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{name.name}" for name in node.names)


def test_the_wall_clock_is_read_to_show_and_to_name_alone() -> None:
    modules = {path.relative_to(ROOT / "tsd").as_posix(): path for path in (ROOT / "tsd").rglob("*.py")}
    found = {name for name, path in modules.items() if list(wall_clocks(path.read_text(encoding="utf-8")))}
    assert found == SHOWN_OR_NAMED.keys()


def test_a_wall_clock_in_a_module_would_be_found() -> None:
    assert list(wall_clocks("import time\nx = time.time() + time.monotonic()\n")) == ["time.time"]
    assert list(wall_clocks("from time import time\n")) == ["time.time"]


# A whole run

JUMPING = """
import itertools, os, time
real_time, real_utime = time.time, os.utime
jumps = itertools.cycle((0.0, 3600.0, -3600.0, 86400.0, -34560000.0))
def jumped():
    return real_time() + next(jumps)
time.time = jumped
time.time_ns = lambda: int(jumped() * 1e9)
def utime(path, times=None, **more):
    now = jumped()
    real_utime(path, (now, now) if times is None else times, **more)
os.utime = utime
open(os.environ["JUMPED"] + "/" + str(os.getpid()), "w").close()
"""


@pytest.mark.timeout(150)
def test_a_run_in_which_every_clock_jumps_all_the_time_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, jumped, site = tmp_path / "run", tmp_path / "jumped", tmp_path / "site"
    for directory in (jumped, site):
        directory.mkdir()
    (site / "sitecustomize.py").write_text(JUMPING)
    monkeypatch.setenv("JUMPED", str(jumped))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    options = ("--set", "transport.frozen_s=5", "--set", "engine.mock_latency_s=0.02", "--max-updates", "25")
    with launched([*TSD, *MOCK, *SHORT, *options, "--run-dir", str(run_dir)]) as run:
        finish(run, 120)
    assert summary(run_dir)["num_updates"] == 25
    assert len(updates(run_dir)) == 25
    events = [row.text for row in MetricsReader(run_dir).read() if isinstance(row, Told)]
    assert not [text for text in events if "frozen" in text or "again in" in text]
    assert len(list(jumped.iterdir())) >= 5, "launcher, two evaluations, trainer and generator had such a clock"
    rows = MetricsReader(run_dir).read()
    stamps = [row.time_s for row in rows]
    assert max(stamps) - min(stamps) > 24 * HOUR_S
