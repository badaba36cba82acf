"""The processes of a run on a cluster: each has a seat, a host on some node, and what it writes comes to be here.

    spawn     waits for a node with room, sends it what the process needs, and starts it there
    follow    for each seat, wakes a few times a second: takes rows, logs, beats, checkpoints and exit codes; finds out
              when the host is gone, and counts what was on it as lost with its node
    stop      ends processes in order, and takes back what generators had finished

Stands in for `tsd.run.processes.Children` under the supervisor, which restarts what ends. Knows nothing about Ray but
what `tsd.run.cluster` says of it.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tsd import __version__
from tsd.config import Config, TransportConfig
from tsd.config.devices import Placement
from tsd.errors import DiskError, ProcessError
from tsd.learn.checkpoint import STATE_FILE, checkpoints_dir, damage, latest_checkpoint, signature
from tsd.model.files import BUILTIN, model_path
from tsd.observe.metrics import LAUNCHER, MetricsWriter
from tsd.run import books, rundir
from tsd.run.backend import Started
from tsd.run.cluster import Cluster, Lost, NoRoom, Place, all_needs, check_room, needs_of, open_cluster
from tsd.run.guardian import MARK_VARIABLE
from tsd.run.host import PYTHON, RELAY, RUN_DIR, SOCKETS, About, Opened, Parcel, Report
from tsd.run.identity import run_id
from tsd.run.mirror import Mirror, begin_copy, end_copy
from tsd.run.processes import describe_end, guarded
from tsd.run.supervisor import MakeBackend, Run
from tsd.search.calibration import FILE, RUNNING
from tsd.transport.keys import OTHER, Role, make_keys
from tsd.transport.meeting import Meeting
from tsd.transport.spool import SPOOL, appended

POLL_S = 0.2
EACH_POLL_S = 0.02
"""The more hosts there are, the less often each is asked: the launcher has one loop."""
ROOM_S = 30.0
"""How long a process waits for room before that is said."""
PART_BYTES = 64 * 2**20
"""Most of a file in one object of Ray's store."""
READ_BYTES = 4 * 2**20
BRING_S = 600.0
"""How long a model or a checkpoint may take to reach a node."""
KILLED = -9
FANOUT = 2
"""Generators that ask the trainer for weights, and that ask each of the others."""
FIRST_TRAINER = "trainer-0"


@dataclass(eq=False)
class Life:
    """One life of a process on a node."""

    name: str
    log_path: Path
    returncode: int | None = None
    why_lost: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_lost(self) -> bool:
        return bool(self.why_lost)

    def failure(self) -> ProcessError:
        """How it ended, in one line."""
        if self.why_lost:
            return ProcessError(f"{self.name} is lost with {self.why_lost}")
        assert self.returncode is not None
        return ProcessError(describe_end(self.name, self.returncode, self.log_path))

    def end(self, code: int, why_lost: str = "") -> None:
        self.returncode, self.why_lost = code, why_lost
        self.ended.set()


@dataclass(eq=False)
class Seat:
    """A host with what is known of it."""

    name: str
    place: Place
    opened: Opened
    mirror: Mirror
    lives: dict[str, Life] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    copied: str = ""
    """Signature, on its node, of the last checkpoint that is both here and there."""
    brought: str = ""
    """Signature of the same one here."""
    calibrated: int = 0
    """When the calibration that it was sent last was written."""
    meeting: Meeting | None = None
    following: asyncio.Task[None] | None = None

    @property
    def is_generator(self) -> bool:
        return self.name.startswith("generator-")

    @property
    def index(self) -> int:
        return int(self.name.rpartition("-")[2])


class Seats:
    """Every process of a run on a cluster, as a context: leaving it ends them all."""

    gives_up_faults = True

    def __init__(self, cluster: Cluster, run: Run, metrics: MetricsWriter, scratch: Path) -> None:
        self._cluster, self._run, self._metrics, self._scratch = cluster, run, metrics, scratch
        self._seats: dict[str, Seat] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._trainer = asyncio.Event()
        """Somebody knows where the trainer is."""
        self._stack = AsyncExitStack()
        self._is_ending = False
        self._model: Parcel = ()
        self._keys: dict[str, bytes] = {}

    @property
    def _config(self) -> Config:
        return self._run.config

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._prepare)
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        return self

    def _prepare(self) -> None:
        """Keys of this launch, the model's files, and an account of what an earlier launch left on nodes."""
        made = make_keys(self._scratch / "keys")
        self._keys = {path.name: path.read_bytes() for path in made}
        if self._has_model:
            directory = model_path(self._config.model.path)
            files = [path for path in sorted(directory.iterdir()) if path.is_file()]
            self._model = [(path.name, self._parts(path)) for path in files]
        for half in checkpoints_dir(self._run.directory).glob("*.partial"):
            shutil.rmtree(half)
        for seat in books.seats_left(self._run.directory):
            self._count_lost(seat, "an earlier launch that was killed")

    @property
    def _has_model(self) -> bool:
        """Whether nodes are sent a model: they have the built-in ones."""
        return self._config.engine.needs_model and not self._config.model.path.startswith(BUILTIN)

    def sockets(self, config: TransportConfig) -> str:
        """What the trainer's own node knows."""
        return SOCKETS

    def environ(self, own: Mapping[str, str]) -> Mapping[str, str]:
        """None of the launcher's: nodes have their own."""
        return {}

    async def meeting_point(self) -> Mapping[str, str]:
        """On the first trainer's node."""
        found: Mapping[str, str] = await (await self._seat(FIRST_TRAINER)).place.ask("meeting_point")
        return found

    async def spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path) -> Life:
        """Starts a process on its seat, which is found a node first where it has none."""
        if name.startswith("generator-"):
            await self._trainer_known(name)
        while True:
            seat = await self._seat(_seat_of(name))
            await asyncio.to_thread(log_path.touch)
            life = Life(name, log_path)
            try:
                await self._bring(seat, name)
                await self._tell_where()
                seat.lives[name] = life  # it may have ended before we hear that it has begun
                await seat.place.ask("start", name, self._words(argv), self._environ(env))
            except Lost as error:
                self._lose(seat, str(error))
                continue
            if name == FIRST_TRAINER and self._seats.get(name) is seat:
                self._trainer.set()
            return life

    async def _trainer_known(self, name: str) -> None:
        """Raises ProcessError where nobody has said where the trainer is for long."""
        limit_s = self._config.transport.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._trainer.wait()
        except TimeoutError:
            raise ProcessError(f"{name} waits for the trainer to have a node: none for {limit_s:g} s") from None

    def _words(self, argv: Sequence[str]) -> list[str]:
        """A command line with what only the node knows as placeholders."""
        directory = str(self._run.directory)
        words = [PYTHON if word == sys.executable else _on_node(word, directory) for word in argv]
        return [*words, "--relay", RELAY] if "--num-generators" in words else words

    def _environ(self, env: Mapping[str, str]) -> dict[str, str]:
        """Ray says which GPUs a host has, where it has any."""
        return {key: value for key, value in env.items() if key != "CUDA_VISIBLE_DEVICES" or not value}

    async def wait(self, child: Started) -> int:
        """As `Children.wait`; one that is lost with its node counts as killed."""
        assert isinstance(child, Life)
        await child.ended.wait()
        assert child.returncode is not None
        return child.returncode

    def kill_one(self, child: Started) -> None:
        """Where its node does not answer, the node counts as lost."""
        seat = self._seats.get(_seat_of(child.name))
        if seat is not None and child.returncode is None:
            self._group.create_task(self._kill(seat, child.name), name=f"kill {child.name}")

    async def _kill(self, seat: Seat, name: str) -> None:
        try:
            await seat.place.ask("kill", name)
        except Lost as error:
            self._lose(seat, str(error))

    def kill(self) -> None:
        """Every host at once; guardians on their nodes end what they leave."""
        for seat in [*self._seats.values()]:
            self._lose(seat, "the launcher, which was told to kill")

    async def stop(self, names: Collection[str] | None = None) -> None:
        """Ends the processes of all seats, or of these, all at once, and gives the seats back."""
        async with asyncio.TaskGroup() as group:
            for seat in [seat for seat in self._seats.values() if names is None or seat.name in names]:
                group.create_task(self._stop(seat), name=f"stop {seat.name}")

    async def _stop(self, seat: Seat) -> None:
        limit_s = self._run.stop_grace_s + 10.0
        try:
            for row in await seat.place.ask("stop", timeout_s=limit_s):
                self._metrics.write(row)
            # What comes to be here meanwhile may be a large checkpoint.
            async with asyncio.timeout(BRING_S if seat.name == FIRST_TRAINER else limit_s):
                for life in [*seat.lives.values()]:
                    await life.ended.wait()
            if self._seats.get(seat.name) is not seat:
                return
            if seat.following is not None:
                seat.following.cancel()
            await asyncio.to_thread(self._keep_spool, seat, await seat.place.ask("spool"))
            del self._seats[seat.name]
            await seat.place.ask("close")
        except Lost as error:
            self._lose(seat, str(error))
        except TimeoutError:
            self._lose(seat, f"its node, which says nothing for {limit_s:g} s")
        finally:
            seat.place.end()

    def _keep_spool(self, seat: Seat, files: Mapping[str, bytes]) -> None:
        """What a generator had finished waits here for the next one."""
        spool = self._run.directory / SPOOL
        spool.mkdir(exist_ok=True)
        for name, data in files.items():
            (spool / name).write_bytes(data)
        books.forget_seat(self._run.directory, seat.name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        try:
            await self.stop()
        finally:
            for seat in [*self._seats.values()]:
                self._lose(seat, "the launcher, which ends")
            await self._stack.__aexit__(kind, error, trace)

    # A seat's life, from an empty chair to a host with all it needs.

    async def _seat(self, name: str) -> Seat:
        """The seat of that name; a new one where there is none, or none any more."""
        async with self._opening.setdefault(name, asyncio.Lock()):
            if name not in self._seats:
                self._seats[name] = seat = await self._open(name)
                seat.following = self._group.create_task(self._follow(seat), name=f"follow {name}")
            return self._seats[name]

    async def _open(self, name: str) -> Seat:
        """Waits for a node with room, however often one goes again meanwhile."""
        while True:
            place = self._cluster.place(*self._wanted(name))
            try:
                address = await self._settled(name, place)
                opened: Opened = await place.ask("open", self._about(name), address, self._model, timeout_s=BRING_S)
                return Seat(name, place, opened, Mirror(self._run.directory))
            except Lost:
                place.end()
                await asyncio.sleep(POLL_S)
            except BaseException:
                place.end()
                raise

    def _wanted(self, name: str) -> tuple[Any, ...]:
        """What `Cluster.place` is to look for."""
        config, placement = self._config, self._run.placement
        index = int(name.rpartition("-")[2])
        if not name.startswith("trainer-"):
            return (needs_of(config, placement.gen[index % len(placement.gen)], config.engine.num_threads),)
        trainers = all_needs(config, placement)[: len(placement.train)]
        return trainers[index], index, trainers

    async def _settled(self, name: str, place: Place) -> str:
        """The address of its node. Says what is lacking; raises ProcessError where a trainer finds no room for long."""
        needs, has_said, waited_s = self._wanted(name)[0], False, 0.0
        while True:
            try:
                return await place.settled(ROOM_S)
            except NoRoom:
                waited_s += ROOM_S
            said = f"{name} waits for a node with room for {needs}; there are {self._cluster.describe()}"
            if waited_s >= self._config.transport.timeout_s and not name.startswith("generator-"):
                raise ProcessError(
                    f"{said}; none for {waited_s:g} s; continue with: tsd launch --resume {self._run.directory}"
                )
            if not has_said:
                self._metrics.event(LAUNCHER, said, is_warning=True)
                has_said = True

    def _about(self, name: str) -> About:
        role: Role = "trainer" if name.startswith("trainer-") else "generator"
        own = (f"{role}.public", f"{role}.secret", f"{OTHER[role]}.public")
        config = (self._run.directory / rundir.CONFIG_FILE).read_bytes()
        keys = {key: self._keys[key] for key in own}
        return About(__version__, config, run_id(self._run.directory), keys, self._has_model, self._run.stop_grace_s)

    async def _bring(self, seat: Seat, name: str) -> None:
        """What a process needs of the run directory, as far as its node lacks it."""
        newest = latest_checkpoint(self._run.directory)
        if seat.is_generator and name == seat.name and not seat.lives:
            await self._bring_spool(seat)
        if newest is None or signature(newest) == seat.brought:
            return
        if name.startswith("generator-"):
            # Where its problems go on, and what its search goes by: not the model.
            files = [path for path in (newest / STATE_FILE, newest / FILE) if path.exists()]
        else:
            files = [path for path in sorted(newest.iterdir()) if path.is_file()]
            seat.brought = signature(newest)
        seat.copied = await seat.place.ask("unpack", await asyncio.to_thread(self._parcel, files), timeout_s=BRING_S)

    async def _bring_spool(self, seat: Seat) -> None:
        """Finished trajectories of earlier lives, which lie here: from now on they lie on its node alone."""
        count = rundir.num_wanted(self._run.directory, self._run.placement)
        found = (self._run.directory / SPOOL).glob("*.[0-9]*")
        files = [path for path in sorted(found) if int(path.name.partition("-")[0]) % count == seat.index]
        if files:
            await seat.place.ask("unpack", await asyncio.to_thread(self._parcel, files))
            await asyncio.to_thread(self._hand_over, seat, files)

    def _hand_over(self, seat: Seat, files: Sequence[Path]) -> None:
        there = appended(self._run.directory / SPOOL)
        names = {path.name.rpartition(".")[0] for path in files}
        self._note_lanes(seat, {name: count for name, count in there.items() if name in names})
        for path in files:
            path.unlink()

    def _parcel(self, files: Sequence[Path]) -> Parcel:
        return [(str(path.relative_to(self._run.directory)), self._parts(path)) for path in files]

    def _parts(self, path: Path) -> list[Any]:
        parts = []
        with path.open("rb") as file:
            while data := file.read(PART_BYTES):
                parts.append(self._cluster.put(data))
        return parts

    # What comes from a seat.

    async def _follow(self, seat: Seat) -> None:
        """Until its host is gone, or the seat given back."""
        try:
            while True:
                report: Report = await seat.place.ask("poll", seat.mirror.have)
                await asyncio.to_thread(self._take, seat, report)
                if report.pieces:
                    continue  # there may be more; what is below holds only once the rows before it are here
                if report.checkpoint and report.checkpoint != seat.copied and seat.name == FIRST_TRAINER:
                    await self._copy(seat, report.checkpoint)
                for name, code in report.codes.items():
                    await seat.place.ask("forget", name)
                    if (life := seat.lives.pop(name, None)) is not None:
                        life.end(code)
                if seat.name == FIRST_TRAINER:
                    await self._bring_calibration(seat)
                await asyncio.sleep(max(POLL_S, EACH_POLL_S * len(self._seats)))
        except Lost as error:
            self._lose(seat, str(error))
        except asyncio.CancelledError:
            for life in seat.lives.values():  # whose ends nobody would hear of: something else has failed
                life.end(KILLED, f"node {seat.opened.address}, of which the launcher takes nothing any more")
            raise

    def _take(self, seat: Seat, report: Report) -> None:
        seat.mirror.take(report.pieces, report.beats)
        if report.lanes != seat.lanes:
            self._note_lanes(seat, report.lanes)

    def _note_lanes(self, seat: Seat, lanes: Mapping[str, int]) -> None:
        seat.lanes = dict(lanes)
        if seat.is_generator:
            books.note_seat(self._run.directory, seat.name, lanes)

    async def _copy(self, seat: Seat, signed: str) -> None:
        """A checkpoint, file by file; given up where the trainer has deleted it meanwhile."""
        name = signed.partition(" ")[0]
        partial = await asyncio.to_thread(begin_copy, self._run.directory, name)
        try:
            files: dict[str, int] = await seat.place.ask("checkpoint_files", name)
            for file, size in files.items():
                await self._copy_file(seat, f"{checkpoints_dir(Path())}/{name}/{file}", size, partial / file)
        except ProcessError:
            return
        if await asyncio.to_thread(damage, partial) is not None:
            return
        kept = self._config.train.checkpoints_kept
        final = await asyncio.to_thread(end_copy, self._run.directory, partial, kept)
        seat.copied, seat.brought = signed, signature(final)
        await seat.place.ask("copied", signed)

    async def _copy_file(self, seat: Seat, name: str, size: int, path: Path) -> None:
        with path.open("wb") as out:
            for at in range(0, size, READ_BYTES):
                data = await seat.place.ask("read", name, at, READ_BYTES)
                try:
                    await asyncio.to_thread(out.write, data)
                except OSError as error:
                    raise DiskError(f"cannot write {path}: {error.strerror}; free some space, then resume") from None

    async def _bring_calibration(self, seat: Seat) -> None:
        """The newest one that a generator wrote, for the next checkpoint."""
        written = [*self._run.directory.glob(RUNNING.format("*"))]
        newest = max(written, key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is not None and (when := newest.stat().st_mtime_ns) != seat.calibrated:
            seat.mirror.have[newest.name] = await seat.place.ask("put", newest.name, newest.read_bytes())
            seat.calibrated = when

    def _lose(self, seat: Seat, why: str) -> None:
        """A host is gone, and all that was on it."""
        if self._seats.get(seat.name) is not seat:
            return
        del self._seats[seat.name]
        seat.place.end()
        if seat.name == FIRST_TRAINER:
            self._trainer.clear()
        if seat.following is not None and seat.following is not asyncio.current_task():
            seat.following.cancel()
        where = f"node {seat.opened.address}: {why}"
        self._count_lost(seat.name, where)
        for life in [*seat.lives.values()]:
            life.end(KILLED, where)
        if not self._is_ending:
            self._group.create_task(self._tell_where(), name="tell where")

    def _count_lost(self, seat: str, why: str) -> None:
        """What it had finished, and no checkpoint holds."""
        if gone := books.lose_seat(self._run.directory, seat, why):
            said = f"lost with {why}: what {seat} had finished and no update comes to use, at most {gone}"
            self._metrics.event(LAUNCHER, said, is_warning=True)

    # Who finds whom.

    async def _tell_where(self) -> None:
        """Each generator is told where the trainer is, and whom to ask for weights."""
        trainer = self._seats.get(FIRST_TRAINER)
        if trainer is None:
            return
        generators = sorted((seat for seat in self._seats.values() if seat.is_generator), key=lambda seat: seat.index)
        for number, seat in enumerate(generators):
            parent = "" if number < FANOUT else generators[number // FANOUT - 1].opened.relay
            meeting = Meeting(trainer=trainer.opened.sockets, parent=parent)
            if seat.meeting != meeting:
                seat.meeting = meeting
                with suppress(Lost):  # whoever follows it finds out
                    await seat.place.ask("meet", meeting)


@contextmanager
def on_cluster(config: Config, placement: Placement) -> Iterator[MakeBackend]:
    """Seats on a run's cluster. What of it is on this machine ends with the launcher, however that ends.

    Raises ValueError where there is no such cluster, or no room on it.
    """
    with guarded() as (mark, scratch):
        os.environ[MARK_VARIABLE] = mark  # of a cluster on this machine, if that is asked for
        with open_cluster(config.cluster, scratch) as cluster:
            check_room(config, placement, cluster.nodes())
            yield lambda run, metrics: Seats(cluster, run, metrics, scratch)


def _on_node(word: str, directory: str) -> str:
    """A word of a command line, where the run's directory is another."""
    is_there = word == directory or word.startswith(f"{directory}/")
    return RUN_DIR + word.removeprefix(directory) if is_there else word


def _seat_of(name: str) -> str:
    """Evaluations go where the first generator is, or would be."""
    return "generator-0" if name.startswith("evaluate-") else name
