"""Runs on clusters of nodes on this machine: nodes come and go, and so do launchers. Nothing is left, nothing is lost
but what went with a node, and that is counted."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.launching import Launched, launched, until
from tests.support.runs import BRIEF, MOCK, TSD, finish, state, summary, updates
from tsd.doctor.audit import Audit, audit
from tsd.doctor.soak import command_line
from tsd.doctor.soak_nodes import ancestors
from tsd.observe.metrics import MetricsReader, ProcessRow, Told, WeightsRow
from tsd.run.books import LOST_FILE
from tsd.run.cluster import LocalCluster

pytest.importorskip("ray")
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]  # of Ray's own
PATIENCE_S = 240.0
MARK = "TSD_TEST_NODES"
NUM_NODES = 3
LONG = tuple(
    f"--set={setting}"
    for setting in ("train.num_updates=100000", "observe.trajectories=true", "train.checkpoint_every=3")
)


@dataclass
class Nodes:
    """A cluster, and what runs on it."""

    cluster: LocalCluster
    mark: str

    def processes(self, role: str = "") -> list[int]:
        """Processes of runs, found by a variable that they inherit from their nodes."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and f"tsd.{role}" in command_line(process.pid):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def with_role(self, role: str, other: str = "") -> int:
        """The number of a node where a process of that role runs, and none of the other."""
        here, not_here = ({above for pid in self.processes(one) for above in ancestors(pid)} for one in (role, other))
        for number, pid in enumerate(self.cluster.pids()):
            if pid in here and not (other and pid in not_here):
                return number
        raise AssertionError(f"no node with a {role} and no {other}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """Nodes of two CPUs, and a head without any: a cluster takes long to start, and tests share it."""
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.delenv("RAY_TMPDIR", raising=False)
        with LocalCluster(NUM_NODES, num_cpus=2) as cluster:
            yield Nodes(cluster, mark)
        assert os.environ.get("RAY_TMPDIR") is None


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """Three of them. No process of a run may be left on them, whatever happens."""
    while len(cluster.cluster.nodes) < NUM_NODES:
        cluster.cluster.add()
    yield cluster
    until(lambda: not cluster.processes(), "processes on nodes to end", PATIENCE_S)


def on(nodes: Nodes, run_dir: Path, *more: str, gpus: str = "2:gen,1:train") -> list[str]:
    where = ("--cluster", nodes.cluster.address, "--gpus", gpus)
    return [*TSD, *MOCK, *BRIEF, *where, "--run-dir", str(run_dir), *more]


def told(run_dir: Path) -> list[str]:
    return [row.text for row in MetricsReader(run_dir).read() if isinstance(row, Told)]


def until_update(run_dir: Path, number: int) -> None:
    until(lambda: any(row.update >= number for row in updates(run_dir)), f"update {number}", PATIENCE_S)


def until_told(run_dir: Path, text: str, count: int = 1) -> None:
    until(lambda: sum(text in one for one in told(run_dir)) >= count, f"{count} times: {text}", PATIENCE_S)


def stop(run: Launched) -> None:
    run.process.send_signal(signal.SIGTERM)
    output, _ = run.process.communicate(timeout=PATIENCE_S)
    assert run.process.returncode == 128 + signal.SIGTERM, output[-3000:]


def audited(run_dir: Path) -> Audit:
    found = audit(run_dir, seed=0, seconds=1.0, faults={}, num_hangs=0, leftovers=())
    assert found.is_clean, found
    assert found.books.trained > 0
    return found


def test_a_run_on_a_cluster_comes_to_its_end_and_leaves_nothing(nodes: Nodes, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched(on(nodes, run_dir, "--set", "observe.trajectories=true")) as run:
        finish(run, PATIENCE_S)
    assert summary(run_dir)["num_updates"] == 12
    assert audited(run_dir).books.lost_with_node == 0
    sources = {row.source for row in MetricsReader(run_dir).read() if isinstance(row, WeightsRow)}
    assert sources == {"trainer-0", "generator-0", "generator-1"}
    assert not nodes.processes()


def test_generators_come_and_go_with_nodes_and_as_they_are_told(nodes: Nodes, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched(on(nodes, run_dir, *LONG)) as run:
        until_update(run_dir, 4)
        nodes.cluster.remove(nodes.with_role("generator", other="trainer"))
        until_told(run_dir, "is lost with node")
        nodes.cluster.add()
        until_told(run_dir, "searching, with weights", 3)
        scale = subprocess.run([sys.executable, "-m", "tsd", "scale", str(run_dir), "3:gen"], check=False)
        assert scale.returncode == 0
        until_told(run_dir, "searching, with weights", 4)
        subprocess.run([sys.executable, "-m", "tsd", "scale", str(run_dir), "1:gen"], check=True)
        until(lambda: len(nodes.processes("generator")) == 1, "generators to end", PATIENCE_S)
        until_update(run_dir, updates(run_dir)[-1].update + 3)
        stop(run)
    assert not nodes.processes()
    found = audited(run_dir)
    lost = [row.process for row in MetricsReader(run_dir).read() if isinstance(row, ProcessRow) and row.what == "lost"]
    assert len(lost) == 1
    assert (run_dir / LOST_FILE).exists() == any("what generator-" in text for text in told(run_dir))
    assert found.books.lost == 0


def test_a_run_whose_trainers_node_is_lost_goes_on_from_the_last_checkpoint(nodes: Nodes, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched(on(nodes, run_dir, *LONG)) as run:
        until_told(run_dir, "checkpoint ", 2)
        before = updates(run_dir)[-1].update
        nodes.cluster.remove(nodes.with_role("trainer"))
        until_told(run_dir, "trainers go on from update-")
        until_update(run_dir, before + 4)
        assert len(nodes.processes("generator")) >= 1
        stop(run)
    assert not nodes.processes()
    audited(run_dir)


def test_a_launcher_that_is_killed_leaves_nothing_and_its_run_is_resumed(nodes: Nodes, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched(on(nodes, run_dir, *LONG)) as run:
        until_told(run_dir, "checkpoint ", 2)
        run.process.kill()
        until(lambda: not nodes.processes(), "actors to go with their launcher", PATIENCE_S)
    until(lambda: state(run_dir).update > 0, "a checkpoint")
    last = state(run_dir).update
    with launched([*TSD, "--resume", str(run_dir), "--max-updates", str(last + 4)]) as run:
        finish(run, PATIENCE_S)
    assert summary(run_dir)["num_updates"] == last + 4
    audited(run_dir)


def test_too_few_resources_are_said_in_one_line_and_nothing_is_made(nodes: Nodes, tmp_path: Path) -> None:
    command = on(nodes, tmp_path / "run", gpus="9:gen,1:train")
    found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert found.returncode == 2
    assert found.stderr == (
        "error: --cluster: there are 6 CPU(s) and 0 GPU(s) on 4 node(s), and 9 generator(s) and 1 trainer(s) are asked "
        "for: no room for 4 x 1 CPU(s)\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_cluster_of_this_machine_goes_with_its_launcher_even_if_that_is_killed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [*TSD, *MOCK, *BRIEF, "--cluster", "local:1", "--run-dir", str(run_dir), *LONG]
    with launched(command) as run:
        until_update(run_dir, 2)
        run.process.kill()
        until(lambda: len(run.alive()) == 0, "everything to end", PATIENCE_S)
