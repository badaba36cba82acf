"""A long run under faults drawn from a seed, then an audit of what is left: `tsd soak`.

Processes are killed and frozen, the launcher too, which is then resumed; the sockets get noise, damaged, repeated and
early frames; the trainer's disk is full; the clock of all files jumps. Afterwards: every trajectory is in one update of
the surviving history or refused with a reason, every generator's weights were the trainer's, the last checkpoint loads,
and nothing of the run is left running or lying about.

Goes about a run from outside, through its files, processes and sockets; knows nothing about how they recover.
"""

import asyncio
import os
import random
import resource
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from tsd.config import MAIN_JOB, load_config
from tsd.doctor.audit import Audit, audit
from tsd.errors import TsdError
from tsd.observe.metrics import MetricsReader, UpdateRow
from tsd.run.child import BEATS
from tsd.run.guardian import is_running, send
from tsd.run.rundir import CONFIG_FILE
from tsd.transport.addresses import Addresses
from tsd.transport.curve import generator_context
from tsd.transport.keys import load_keys
from tsd.transport.spool import SPOOL, Lane, leftovers

MARK = "TSD_SOAK_MARK"
SETTINGS: dict[str, object] = {
    "train.num_updates": 1_000_000,
    "train.time_limit_s": 0,
    "train.batch_size": 16,
    "train.checkpoint_every": 5,
    "evaluate.num_problems": 4,
    "evaluate.k": 2,
    "observe.trajectories": "true",
    "transport.frozen_s": 4,
    "engine.mock_latency_s": 0.02,
}
GAP_S = (2.0, 10.0)
"""Between two faults."""
GONE_S = 30.0
"""How long a stopped launcher may take to leave nothing behind."""
PATIENCE_S = {"mock": 120.0, "torch": 240.0, "vllm": 480.0}
"""How long nothing may be learned before it counts as a hang, by engine. On a busy machine vLLM
takes minutes to start."""


@dataclass(slots=True)
class Soak:
    """A run, and what torments it."""

    run_dir: Path
    settings: dict[str, object]
    seconds: float
    patience_s: float
    rng: random.Random
    report: Callable[[str], None]
    choices: "dict[str, tuple[float, Fault]]" = field(default_factory=lambda: FAULTS)
    """Faults it may draw, each with its weight."""
    gap_s: tuple[float, float] = GAP_S
    """Least and most time between two faults."""
    where: tuple[str, ...] = ()
    """What every launch is told besides."""
    faults: Counter[str] = field(default_factory=Counter)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    scratches: set[Path] = field(default_factory=set)
    num_hangs: int = 0
    reader: MetricsReader = field(init=False)
    updated_s: float = 0.0
    """When the last update was written."""

    def __post_init__(self) -> None:
        self.reader = MetricsReader(self.run_dir)

    async def torment(self) -> None:
        """Launches, and relaunches, until the time is up; then stops the run in order.

        The time counts from the first update: a slow start costs no faults.
        """
        launcher = await self.launch()
        try:
            await self.alive(launcher)
            deadline = time.monotonic() + self.seconds
            while time.monotonic() < deadline:
                await asyncio.sleep(self.rng.uniform(*self.gap_s))
                fault = self.rng.choices(list(self.choices), [weight for weight, _ in self.choices.values()])[0]
                if await self.choices[fault][1](self, launcher):
                    self.faults[fault] += 1
                    self.report(f"{fault} ({sum(self.faults.values())})")
                if launcher.returncode is not None and fault in ("launcher killed", "disk full"):
                    launcher = await self.launch()
                await self.alive(launcher)
        finally:
            if launcher.returncode is None:
                launcher.terminate()
            async with asyncio.timeout(GONE_S):
                await launcher.wait()

    @property
    def log(self) -> Path:
        """What the launcher prints: beside the run's directory, which must be its own."""
        return self.run_dir.parent / f"{self.run_dir.name}.log"

    async def launch(self) -> asyncio.subprocess.Process:
        """Starts the run, or resumes it."""
        resume = (self.run_dir / CONFIG_FILE).exists()
        where = ["--resume", str(self.run_dir)] if resume else ["--run-dir", str(self.run_dir)]
        sets = [] if resume else [f"--set={key}={value}" for key, value in self.settings.items()]
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tsd", "launch", *where, *sets, *self.where),
                env={**os.environ, MARK: self.mark},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def alive(self, launcher: asyncio.subprocess.Process) -> None:
        """Waits for the next update, from whatever state the run is in; counts a hang where none comes."""
        before, deadline = self.last_update_s(), time.monotonic() + self.patience_s
        while self.last_update_s() == before:
            if launcher.returncode is not None:
                raise TsdError(f"the run ended under its faults; its launcher's last words are in {self.log}")
            if time.monotonic() > deadline:
                self.num_hangs += 1
                raise TsdError(f"no update for {self.patience_s:g} s after {dict(self.faults)}; see {self.run_dir}")
            await asyncio.sleep(0.25)

    def last_update_s(self) -> float:
        """When the last update was written; 0 before the first."""
        for row in self.reader.read():
            if isinstance(row, UpdateRow):
                self.updated_s = row.time_s
        return self.updated_s

    def processes(self, role: str) -> list[int]:
        """This run's processes that are `tsd.<role>`."""
        return [pid for pid in marked(self.mark) if f"tsd.{role}" in command_line(pid)]

    def sockets(self) -> Addresses | None:
        """Where the run's sockets are, as its processes were told."""
        for pid in self.processes("trainer"):
            words = command_line(pid).split()
            if "--sockets" in words:
                base = words[words.index("--sockets") + 1]
                self.scratches.add(Path(base))
                return Addresses(base)
        return None

    async def kill(self, role: str) -> bool:
        return self.signal(role, signal.SIGKILL)

    async def freeze(self, role: str, seconds: float) -> bool:
        """Stops a process for so long, unless it is replaced before."""
        pids = self.processes(role)
        if not pids:
            return False
        pid = self.rng.choice(pids)
        send(signal.SIGSTOP, [pid])
        await asyncio.sleep(seconds)
        send(signal.SIGCONT, [pid])
        return True

    def signal(self, role: str, number: signal.Signals) -> bool:
        pids = self.processes(role)
        if pids:
            send(number, [self.rng.choice(pids)])
        return bool(pids)

    async def kill_launcher(self, launcher: asyncio.subprocess.Process) -> bool:
        """Without a word. What it leaves must be gone before the run is resumed: the run's lock says so."""
        self.sockets()
        launcher.kill()
        await launcher.wait()
        return True

    async def fill_disk(self, launcher: asyncio.subprocess.Process) -> bool:
        """Lets the trainer write nothing more, until it has ended the run for it."""
        for pid in self.processes("trainer"):
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
        async with asyncio.timeout(self.patience_s):
            await launcher.wait()
        return True

    async def jump_clock(self, seconds: float) -> bool:
        """Files are suddenly that much older or newer, as they are to who looks at them after such a jump."""
        for path in (self.run_dir / BEATS).iterdir():
            when = path.stat().st_mtime + seconds
            os.utime(path, (when, when))
        return True

    async def send_frames(self, make: Callable[[list[bytes], random.Random], list[bytes]]) -> bool:
        """To the trainer, as a generator would."""
        sockets = self.sockets()
        frames = [lane.frame(serial) for lane in leftovers(self.run_dir / SPOOL, 0, 1) for serial in recent(lane)]
        if sockets is None or not frames:
            return False
        keys = load_keys(load_config(self.run_dir / CONFIG_FILE).transport.keys, "generator")
        with generator_context(keys) as context, context.socket(zmq.PUSH) as wire:
            wire.linger = 500
            wire.connect(sockets.trajectories)
            for frame in make(frames, self.rng):
                try:
                    async with asyncio.timeout(5):
                        await wire.send(frame)
                except TimeoutError:
                    return False  # nobody took it: the trainer is being started
        return True


def recent(lane: Lane) -> range:
    """Serials not saved yet, the last few."""
    return range(max(lane.num_saved, lane.num_appended - 20), lane.num_appended)


def noise(frames: list[bytes], rng: random.Random) -> list[bytes]:
    return [rng.randbytes(rng.randrange(2000)) for _ in range(20)]


def damaged(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """Bits flipped, ends cut off."""
    found = []
    for frame in rng.choices(frames, k=20):
        broken = bytearray(frame)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        found.append(bytes(broken[: rng.randrange(1, len(broken) + 1)]) if rng.random() < 0.5 else bytes(broken))
    return found


def repeated(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """What was sent before, and what is not yet due, in any order."""
    return rng.sample(frames, len(frames))


Fault = Callable[[Soak, asyncio.subprocess.Process], Coroutine[None, None, bool]]
FAULTS: dict[str, tuple[float, Fault]] = {
    "generator killed": (5, lambda soak, launcher: soak.kill("generator")),
    "trainer killed": (3, lambda soak, launcher: soak.kill("trainer")),
    "launcher killed": (1, lambda soak, launcher: soak.kill_launcher(launcher)),
    "generator frozen": (1, lambda soak, launcher: soak.freeze("generator", 6)),
    "trainer frozen": (1, lambda soak, launcher: soak.freeze("trainer", 6)),
    "generator delayed": (2, lambda soak, launcher: soak.freeze("generator", 1)),
    "trainer delayed": (2, lambda soak, launcher: soak.freeze("trainer", 1)),
    "disk full": (1, lambda soak, launcher: soak.fill_disk(launcher)),
    "clock put forward": (1, lambda soak, launcher: soak.jump_clock(86_400)),
    "clock put back": (1, lambda soak, launcher: soak.jump_clock(-86_400)),
    "noise sent": (2, lambda soak, launcher: soak.send_frames(noise)),
    "damaged frames sent": (2, lambda soak, launcher: soak.send_frames(damaged)),
    "frames repeated and reordered": (2, lambda soak, launcher: soak.send_frames(repeated)),
}
"""Each with its weight."""


def marked(mark: str) -> list[int]:
    """Living processes with the soak's mark in their environment, the launcher's descendants among them."""
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit() and f"{MARK}={mark}".encode() in Path(f"/proc/{entry}/environ").read_bytes().split(
                b"\0"
            ):
                found.append(int(entry))
    return [pid for pid in found if is_running(pid)]


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


async def soak(
    run_dir: Path, settings: Sequence[str], minutes: float, seed: int, report: Callable[[str], None]
) -> Audit:
    """Torments a new run for so long, then audits it.

    Raises ValueError for settings that cannot be, TsdError where the run ends or hangs under it.
    """
    patience_s = PATIENCE_S[load_config(MAIN_JOB, settings).engine.kind]
    named = {key: value for key, _, value in (setting.partition("=") for setting in settings)}
    started = time.monotonic()
    every = {**SETTINGS, **named, "seed": seed}
    one = Soak(run_dir, every, 60 * minutes, patience_s, random.Random(seed), report)
    await one.torment()
    return audited(one, seed, time.monotonic() - started)


def audited(one: Soak, seed: int, seconds: float) -> Audit:
    """What a soak that has ended came to."""
    return audit(
        one.run_dir,
        seed=seed,
        seconds=seconds,
        faults=dict(one.faults),
        num_hangs=one.num_hangs,
        leftovers=tuple(
            [f"process {pid}: {command_line(pid)[:80]}" for pid in marked(one.mark)]
            + [str(path) for path in one.scratches if path.exists()]
        ),
    )
