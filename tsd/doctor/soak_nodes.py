"""A long run on a cluster whose nodes are lost and join, as a seed has it, then an audit: `tsd soak --cluster local:3`.

What a node had finished and the trainer did not come to use is lost with it, and must have been counted; nothing else
may be. Knows nothing about how a run recovers.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsd.config import MAIN_JOB, load_config
from tsd.doctor.audit import Audit
from tsd.doctor.soak import GONE_S, MARK, PATIENCE_S, SETTINGS, Fault, Soak, audited, command_line, marked
from tsd.run.cluster import LOCAL, LocalCluster, check_cluster
from tsd.run.guardian import parent_of

NODE_SETTINGS: dict[str, object] = {"transport.frozen_s": 20}
GPUS = "3:gen,1:train"
FEWEST, MOST = 2, 4
"""Nodes that there are at any time; on two there is just room."""
NODE_CPUS = 2
NODE_GAP_S = (1.0, 4.0)
SLOWER = 3.0
"""So much longer than on one machine nothing may be learned: a node, a host and a process have to start."""


@dataclass(slots=True)
class NodeSoak(Soak):
    """A run on a cluster, and what torments it."""

    cluster: LocalCluster | None = None

    def processes(self, role: str) -> list[int]:
        """As on one machine; remembers the directories that nodes made for them."""
        # Not `super()`: a dataclass with slots is another class than the one that its methods were written in.
        pids = Soak.processes(self, role)
        for pid in pids:
            self.scratches.update(Path(found) for found in re.findall(r"(/\S*/tsd-[^/\s]+)/run", command_line(pid)))
        return pids

    async def lose_node(self, role: str) -> bool:
        """One on which a process of that role runs. Another joins first, where there are too few."""
        cluster = self.cluster
        pids = self.processes(role)
        if cluster is None or not pids:
            return False
        if len(cluster.nodes) <= FEWEST:
            cluster.add()
        above = ancestors(self.rng.choice(pids))
        for number, pid in enumerate(cluster.pids()):
            if pid in above:
                await asyncio.to_thread(cluster.remove, number)
                return True
        return False

    async def add_node(self) -> bool:
        """Another node joins, unless there are many."""
        if self.cluster is None or len(self.cluster.nodes) >= MOST:
            return False
        self.cluster.add()
        return True


def _losing(role: str) -> Fault:
    async def lose(soak: Soak, launcher: asyncio.subprocess.Process) -> bool:
        assert isinstance(soak, NodeSoak)
        return await soak.lose_node(role)

    return lose


async def _adding(soak: Soak, launcher: asyncio.subprocess.Process) -> bool:
    assert isinstance(soak, NodeSoak)
    return await soak.add_node()


NODE_FAULTS: dict[str, tuple[float, Fault]] = {
    "node lost": (8, _losing("generator")),
    "trainer's node lost": (3, _losing("trainer")),
    "node added": (2, _adding),
    "generator killed": (1, lambda soak, launcher: soak.kill("generator")),
    "trainer killed": (1, lambda soak, launcher: soak.kill("trainer")),
    "launcher killed": (1, lambda soak, launcher: soak.kill_launcher(launcher)),
    "generator frozen": (0.5, lambda soak, launcher: soak.freeze("generator", 25)),
    "trainer delayed": (1, lambda soak, launcher: soak.freeze("trainer", 1)),
}
"""Each with its weight."""


def ancestors(pid: int) -> set[int]:
    """Processes that a process comes from."""
    found = set[int]()
    while (parent := parent_of(pid)) > 1:
        found.add(parent)
        pid = parent
    return found


def _wait_until_gone(mark: str) -> None:
    """Guardians on nodes that were lost last have a moment."""
    deadline = time.monotonic() + GONE_S
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.25)


async def soak_nodes(
    run_dir: Path, settings: Sequence[str], minutes: float, seed: int, spec: str, report: Callable[[str], None]
) -> Audit:
    """Torments a new run on nodes of this machine for so long, then audits it.

    Raises ValueError for settings that cannot be, TsdError where the run ends or hangs under it.
    """
    check_cluster(spec)
    if not spec.startswith(LOCAL):
        raise ValueError(f"--cluster {spec}: a soak takes away nodes, and so makes its own; expected such as local:3")
    patience_s = SLOWER * PATIENCE_S[load_config(MAIN_JOB, settings).engine.kind]
    named = {key: value for key, _, value in (setting.partition("=") for setting in settings)}
    every = {**SETTINGS, **NODE_SETTINGS, **named, "seed": seed}
    seconds, rng = 60 * minutes, random.Random(seed)
    one = NodeSoak(run_dir, every, seconds, patience_s, rng, report, choices=NODE_FAULTS, gap_s=NODE_GAP_S)
    os.environ[MARK] = one.mark  # of the nodes, and so of all that runs on them
    started, count = time.monotonic(), int(spec.removeprefix(LOCAL))
    # In this thread, which nobody else uses: Ray's processes go with the one that started them.
    with LocalCluster(count, num_cpus=NODE_CPUS) as cluster:
        one.cluster, one.where = cluster, ("--cluster", cluster.address, "--gpus", GPUS)
        await one.torment()
    await asyncio.to_thread(_wait_until_gone, one.mark)
    return audited(one, seed, time.monotonic() - started)
