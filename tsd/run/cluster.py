"""Ray, and all that tsd asks of it: nodes, places on them, and bytes that reach them. The one importer of ray.

    auto         the cluster that this machine is part of
    HOST:PORT    the cluster whose head listens there
    local:N      N nodes on this machine, for as long as the run: to try things, and for tests

Ray only places: it starts nothing again by itself, since the supervisor knows better what is worth it. Knows nothing
about what is done in a place (`tsd.run.host`).
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tsd.config import Config
from tsd.config.devices import CPU, TOGETHER, Placement
from tsd.config.extras import check_installed
from tsd.errors import ProcessError, leaves
from tsd.run.host import Host

AUTO, LOCAL = "auto", "local:"
RAY_FILES = "RAY_TMPDIR"
STORE_BYTES = 128 * 2**20
"""Shared memory of each node on this machine."""
START_ATTEMPTS = 3
ASK_S = 60.0
"""How long a host may take to answer before its node counts as lost."""
UNAVAILABLE_S = 15.0
AGAIN_S = 1.0


class Lost(Exception):
    """Raised when a host is gone: its node, or its actor."""


class NoRoom(Exception):
    """Raised when there is no room for a place so far."""


def check_cluster(spec: str) -> None:
    """Raises ValueError for what names no cluster, or where ray is not installed."""
    where, _, count = spec.partition(":")
    is_number = count.isdigit() and int(count) > 0
    if spec != AUTO and not (where and is_number):
        raise ValueError(f"--cluster {spec}: expected auto, an address such as 10.0.0.5:6379, or local:3")
    check_installed(f"--cluster {spec}", "ray", "ray")


@dataclass(frozen=True)
class Needs:
    """What a place takes up."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.gpus} GPU(s)" if self.gpus else f"{self.cpus} CPU(s)"


def needs_of(config: Config, device: str, num_threads: int) -> Needs:
    """What a process with that device takes up: whole GPUs, or as many CPUs as it has threads. The mock engine has no
    use for GPUs."""
    if device == CPU or config.engine.kind == "mock":
        return Needs(num_threads, 0)
    return Needs(1, len(device.split(TOGETHER)))


def all_needs(config: Config, placement: Placement) -> list[Needs]:
    """What each process of a run takes up."""
    generators = [needs_of(config, device, config.engine.num_threads) for device in placement.gen]
    trainers = [needs_of(config, device, config.train.num_threads) for device in placement.train]
    return [*trainers, *generators]


def check_room(config: Config, placement: Placement, nodes: Sequence[Needs]) -> None:
    """Raises ValueError, one line, where a run does not fit on nodes that had nothing else to do."""
    wanted = sorted(all_needs(config, placement), key=lambda one: (one.gpus, one.cpus), reverse=True)
    free, homeless = list(nodes), list[Needs]()
    for one in wanted:
        for number, node in enumerate(free):
            if node.cpus >= one.cpus and node.gpus >= one.gpus:
                free[number] = Needs(node.cpus - one.cpus, node.gpus - one.gpus)
                break
        else:
            homeless.append(one)
    if homeless:
        there = f"{sum(node.cpus for node in nodes)} CPU(s) and {sum(node.gpus for node in nodes)} GPU(s)"
        asked = f"{len(placement.gen)} generator(s) and {len(placement.train)} trainer(s)"
        lacking = ", ".join(f"{homeless.count(one)} x {one}" for one in dict.fromkeys(homeless))
        raise ValueError(
            f"--cluster: there are {there} on {len(nodes)} node(s), and {asked} are asked for: no room for {lacking}"
        )


@dataclass
class Place:
    """A host on some node, once there is room for it."""

    actor: Any
    errors: Any
    """Ray's module of errors."""

    async def ask(self, method: str, *words: object, timeout_s: float = ASK_S) -> Any:
        """Raises Lost where the host is gone or silent, and what the host raised where it refuses."""
        deadline = asyncio.get_running_loop().time() + UNAVAILABLE_S
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    return await getattr(self.actor, method).remote(*words)
            except TimeoutError:
                raise Lost(f"no answer for {timeout_s:g} s") from None
            except self.errors.ActorUnavailableError:
                if asyncio.get_running_loop().time() > deadline:
                    raise Lost(f"out of reach for {UNAVAILABLE_S:g} s") from None
                await asyncio.sleep(AGAIN_S)
            except self.errors.RayActorError:
                raise Lost("its node, or its actor, is gone") from None
            except self.errors.RayTaskError as error:
                raise ProcessError(f"a host fails: {_cause(error)}") from error

    async def settled(self, timeout_s: float) -> str:
        """The address of its node. Raises NoRoom where it has none after so long, Lost where its node is gone again."""
        try:
            async with asyncio.timeout(timeout_s):
                found: str = await self.actor.address.remote()
                return found
        except TimeoutError:
            raise NoRoom from None
        except self.errors.RayActorError:
            raise Lost("its node went before it was there") from None

    def end(self) -> None:
        """Whatever it is doing."""
        import ray

        with suppress(Exception):  # the cluster itself may be gone
            ray.kill(self.actor, no_restart=True)


class Addressed(Host):
    """A host that knows its node's address, as Ray has it."""

    async def address(self) -> str:
        import ray

        found: str = ray.util.get_node_ip_address()
        return found


@dataclass
class Cluster:
    """A connection to a cluster."""

    ray: Any
    _trainers: Any = None
    """The placement group of several trainers."""

    def nodes(self) -> list[Needs]:
        """What each living node has in all."""
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [Needs(int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in alive]

    def describe(self) -> str:
        """What is there, in a few words."""
        nodes, free = self.nodes(), self.ray.available_resources()
        return (
            f"{len(nodes)} node(s) with {sum(node.cpus for node in nodes)} CPU(s) and "
            f"{sum(node.gpus for node in nodes)} GPU(s), of which {free.get('CPU', 0):g} and {free.get('GPU', 0):g} "
            "are free"
        )

    def place(self, needs: Needs, rank: int | None = None, trainers: Sequence[Needs] = ()) -> Place:
        """Asks for a place, and waits for none. Several trainers are packed: on one node if they fit, else on few."""
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_restarts": 0}
        options["scheduling_strategy"] = "SPREAD"
        if rank is not None and len(trainers) > 1:
            options["scheduling_strategy"] = self._packed(rank, trainers)
        actor = self.ray.remote(Addressed).options(**options).remote()
        return Place(actor, self.ray.exceptions)

    def _packed(self, rank: int, trainers: Sequence[Needs]) -> Any:
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self._trainers is None:
            bundles = [{"CPU": one.cpus, **({"GPU": one.gpus} if one.gpus else {})} for one in trainers]
            self._trainers = placement_group(bundles, strategy="PACK")
        return PlacementGroupSchedulingStrategy(self._trainers, placement_group_bundle_index=rank)

    def put(self, data: bytes) -> Any:
        """A reference to bytes that any node can have."""
        return self.ray.put(data)


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Raises ValueError where there is no such cluster."""
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="tsd")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"--cluster {address}: no Ray cluster answers: {said[0]}") from None
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


@contextmanager
def open_cluster(spec: str, scratch: Path | None = None) -> Iterator[Cluster]:
    """The cluster that a specification names; one on this machine lives as long as the context."""
    if not spec.startswith(LOCAL):
        with connected(spec) as cluster:
            yield cluster
        return
    with LocalCluster(int(spec.removeprefix(LOCAL)), scratch) as local, connected(local.address) as cluster:
        yield cluster


@dataclass
class LocalCluster:
    """Nodes on this machine, which come and go as they are told. The head has no room: it is the launcher's."""

    num_nodes: int
    scratch: Path | None = None
    """Where Ray keeps its own files, which go with it."""
    num_cpus: int = 0
    """CPUs that each node claims to have; as many as this machine where 0."""
    nodes: list[Any] = field(default_factory=list)
    address: str = ""

    def __enter__(self) -> Self:
        _ray()
        from ray.cluster_utils import Cluster as Nodes

        # Short, for the sockets in it; and not Ray's own, where `auto` would come to find this cluster.
        self._directory = self.scratch or Path(tempfile.mkdtemp(prefix="tsd-", dir="/tmp"))
        self._before = os.environ.get(RAY_FILES)
        os.environ[RAY_FILES] = str(self._directory)
        (self._directory / "ray").mkdir()
        self.num_cpus = self.num_cpus or os.cpu_count() or 1
        head = {"num_cpus": 0, **self._common}
        try:
            self._nodes = Nodes(initialize_head=True, shutdown_at_exit=True, head_node_args=head)
            self.address = self._nodes.address
            for _ in range(self.num_nodes):
                self.add()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def _common(self) -> Mapping[str, Any]:
        store = {"object_store_memory": STORE_BYTES, "num_gpus": 0}
        return {**store, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}

    def add(self) -> None:
        """Another node joins; returns once it is there. Ray gives a node 30 s, and on a busy machine some need more."""
        for attempt in range(START_ATTEMPTS):
            try:
                self.nodes.append(self._nodes.add_node(num_cpus=self.num_cpus, **self._common))
                return
            except Exception as error:  # of no kind of its own
                if attempt + 1 == START_ATTEMPTS or "timed out" not in str(error):
                    raise

    def pids(self) -> list[int]:
        """The process from which all comes that runs on a node, for each."""
        return [node.all_processes["raylet"][0].process.pid for node in self.nodes]

    def remove(self, number: int) -> None:
        """A node is gone, without a word, and all that ran on it."""
        self._nodes.remove_node(self.nodes.pop(number), allow_graceful=False)

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_nodes"):
            self._nodes.shutdown()
        os.environ.pop(RAY_FILES)
        if self._before is not None:
            os.environ[RAY_FILES] = self._before
        shutil.rmtree(self._directory, ignore_errors=True)


def _ray() -> Any:
    """Ray, told to send nothing about its use to anybody, and to print nothing between the lines of a launch: what is
    lost the launcher says itself."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Of nodes on this machine: no idle workers, and those that work not put last.
        "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "false",
        "RAY_enable_worker_prestart": "false",
    }.items():
        os.environ.setdefault(name, value)
    import ray

    return ray


def _cause(error: BaseException) -> str:
    """The last line of what a host raised."""
    first = leaves(getattr(error, "cause", None) or error)[0]
    said = str(first).strip().splitlines() or [type(first).__name__]
    return said[-1]
