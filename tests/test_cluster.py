"""Runs on clusters of nodes on this machine: nodes come and go, and so do launchers. Nothing is left, nothing is lost
but what went with a node, and that is counted."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.launching import launched, until
from tests.support.runs import BRIEF, MOCK, TSD, finish, state, summary, updates
from tsd.doctor.audit import audit
from tsd.observe.metrics import GeneratorRow, MetricsReader, ProcessRow, Told, WeightsRow
from tsd.run.cluster import LocalCluster

pytest.importorskip("ray")
pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]  # of Ray's own
PATIENCE_S = 90.0
LONG = ("--set", "train.num_updates=100000", "--set", "observe.trajectories=true", "--set", "train.checkpoint_every=3")


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Three nodes of two CPUs, and a head without any."""
    with LocalCluster(3, num_cpus=2) as cluster:
        yield cluster


def on(cluster: LocalCluster, run_dir: Path, *more: str, gpus: str = "2:gen,1:train") -> list[str]:
    where = ("--cluster", cluster.address, "--gpus", gpus)
    return [*TSD, *MOCK, *BRIEF, *where, "--run-dir", str(run_dir), *more]


def told(run_dir: Path) -> list[str]:
    return [row.text for row in MetricsReader(run_dir).read() if isinstance(row, Told)]


def test_a_run_on_a_cluster_comes_to_its_end_and_leaves_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched(on(cluster, run_dir, "--set", "observe.trajectories=true")) as run:
        finish(run, PATIENCE_S)
    assert summary(run_dir)["books"]["produced"] > 0
    found = audit(run_dir, seed=0, seconds=1.0, faults={}, num_hangs=0, leftovers=())
    assert found.is_clean
    rows = MetricsReader(run_dir).read()
    assert {row.generator for row in rows if isinstance(row, GeneratorRow)} <= {0, 1}
    assert {row.source for row in rows if isinstance(row, WeightsRow)} == {"trainer-0", "generator-0", "generator-1"}
    assert "searching, with weights" in "".join(told(run_dir))
