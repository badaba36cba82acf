"""A short soak; `tsd soak` runs for as long as one likes. And what an audit says of books that do not balance."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.support.rows import update_row
from tests.support.trajectories import make_trajectory
from tsd.doctor.audit import audit, num_restarts
from tsd.learn.checkpoint import TrainState, save_checkpoint
from tsd.observe.metrics import EventRow, MetricsRow, MetricsWriter, ProcessRow, WeightsRow
from tsd.run.books import USED_FILE, balance
from tsd.transport.spool import SPOOL, Lane


@pytest.mark.timeout(240)
def test_a_run_under_faults_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tsd", "soak", "--minutes", "0.5", "--seed", "3", "--json")
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "run")], capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert sum(found["faults"].values()) > 1
    assert found["num_updates"] > 5
    assert found["books"]["produced"] >= found["books"]["trained"] > 0


def a_run(directory: Path, used: list[list[str]], state: TrainState) -> None:
    """What a run of one sender leaves: ten trajectories in its spool, none of them saved."""
    (directory / SPOOL).mkdir(parents=True)
    lane = Lane(directory / SPOOL, "0-a")
    for serial in range(10):
        lane.append(make_trajectory(serial, [3]))
    lines = [msgspec.json.encode({"update": number + 1, "ids": ids}) for number, ids in enumerate(used)]
    (directory / USED_FILE).write_bytes(b"\n".join(lines) + b'\n{"update": 9, "ids')
    save_checkpoint(directory, state, lambda path: None)


def test_books_balance_where_everything_used_is_counted_and_what_is_left_is_in_flight(tmp_path: Path) -> None:
    state = TrainState(update=2, num_trajectories=4, consumed={"0-a": 5}, num_refused={"stale": 1})
    a_run(tmp_path, [["0-a-0", "0-a-1"], ["0-a-3", "0-a-4"]], state)
    books = balance(tmp_path, state)
    assert (books.produced, books.trained, books.in_flight, books.lost) == (10, 4, 5, 0)
    found = audit(tmp_path, seed=0, seconds=1.0, faults={}, num_hangs=0, leftovers=())
    assert found.is_clean


def test_an_audit_sees_what_is_lost_used_twice_or_not_the_trainers(tmp_path: Path) -> None:
    state = TrainState(update=2, num_trajectories=4, consumed={"0-a": 6}, num_refused={"stale": 1})
    a_run(tmp_path, [["0-a-0", "0-a-1"], ["0-a-1", "0-a-4"]], state)
    with MetricsWriter(tmp_path) as metrics:
        for source, checksum in (("trainer-0", 7), ("generator-0", 7), ("generator-0", 8)):
            metrics.write(WeightsRow(source=source, life="a", version=1, checksum=checksum, num_bytes=4, seconds=0.0))
    found = audit(tmp_path, seed=0, seconds=1.0, faults={}, num_hangs=0, leftovers=("process 7",))
    assert found.books.lost == 1
    assert (found.num_lost, found.num_used_twice, found.num_wrong_weights, found.num_syncs) == (2, 1, 1, 2)
    assert not found.is_clean


def test_an_audit_tells_how_soon_a_dead_generator_is_learned_from_again(tmp_path: Path) -> None:
    before, after, other = ("0-" + f"{born_s * 10**9:x}" for born_s in (90, 103, 104))
    state = TrainState(update=3, num_trajectories=3, consumed={})
    a_run(tmp_path, [[f"{before}-0"], [f"1-{other[2:]}-0"], [f"{after}-0"]], state)
    with MetricsWriter(tmp_path) as metrics:
        for number, time_s in enumerate((99.0, 105.0, 108.5)):
            metrics.write(update_row(number + 1, time_s))
        metrics.write(ProcessRow(time_s=100.0, process="generator-0", what="restarted", cause="SIGKILL"))
    found = audit(tmp_path, seed=0, seconds=1.0, faults={}, num_hangs=0, leftovers=())
    assert (found.back_s, found.updates_meanwhile, found.num_restarts) == (8.5, 1, 1)


def test_a_process_that_is_given_up_was_not_started_again_whatever_its_log_says() -> None:
    cause = "generator-0 ended with exit code 1; its log ends: no room left in 2 places, starting it again in 1 s"
    rows: list[MetricsRow] = [
        ProcessRow(process="generator-0", what="given up", cause=cause, then="the others go on"),
        EventRow(source="generator-1", text=cause),
    ]
    assert num_restarts(rows) == 0
