"""The rows of `metrics.jsonl`: every process of a run appends its own, the launcher and `tsd watch` read them all.

One row is one `write` of one line to a file opened for appending, so that rows of several processes do not mix. JSON
has no NaN and no infinity: they are the strings "nan", "inf" and "-inf". Knows nothing about how rows are drawn.
"""

import errno
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Protocol, Self

import msgspec
from msgspec import Struct, field

from tsd.errors import DiskError
from tsd.types import Stats, figure

METRICS_FILE = "metrics.jsonl"
LAUNCHER = "launcher"


class UpdateRow(Stats, frozen=True, kw_only=True, tag="update", tag_field="kind"):
    """One optimizer update, by the trainer of rank 0: its `Stats`, and what its batch was."""

    time_s: float = field(default_factory=time.time)
    """When it was written, seconds since 1970."""
    update: int
    """Its number, from 1; it goes on over resumes."""
    num_updates: int
    """Those the run is to make in all."""
    version: int
    """The last version published."""
    reward_mean: Annotated[float, figure("reward", ".3f")]
    """Training reward of the batch's trajectories, -1 to 1: the task's, or where several are mixed, the mix."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Means over them of each reward that is mixed, by name; empty where the task's is the only one."""
    exact_share: Annotated[float, figure("solved share", ".1%")]
    """Share of them that solve their problem, 0 to 1."""
    age_mean: Annotated[float, figure("age, versions", ".2f", "highest")]
    """Versions between sampling and use."""
    ages: dict[str, int] = field(default_factory=dict)
    """Trajectories by that age."""
    num_trajectories: int
    """Used so far."""
    generated_tokens: int
    """Generated so far for the trajectories used."""
    num_refused: dict[str, int]
    """Trajectories refused so far, by reason."""
    num_dropped: dict[str, int] = field(default_factory=dict)
    """Frames dropped by this trainer process, by reason: what came twice, too early, or damaged came again."""
    num_tokens_laid_out: int = 0
    """Tokens of the same batch, had each branch of each tree been laid out alone."""
    tokens_per_s: Annotated[float, figure("tokens/s trained", ",.0f")]
    """Response tokens trained on in this update, by its time without waiting."""
    wait_s: float
    """Time spent waiting for trajectories, in seconds."""
    elapsed_s: float
    """Time trained, waits included, over all resumes, in seconds."""


class GeneratorRow(Struct, frozen=True, kw_only=True, tag="generator", tag_field="kind"):
    """One generator's last few seconds."""

    time_s: float = field(default_factory=time.time)
    """When it was written, seconds since 1970."""
    generator: int
    """Its place among the generators, from 0."""
    version: int
    """Version of the weights it searches with."""
    num_trees: int
    """Finished so far."""
    num_simulations: int
    """Simulations of the trees finished so far."""
    generated_tokens: int
    """For the trees finished so far."""
    simulations_per_s: float
    """Simulations by the second, of the trees finished in this interval."""
    tokens_per_s: float
    """Generated for the trees finished in this interval."""
    solved_share: float | None
    """Share of the trees finished in this interval, if any."""
    loop_lag_s: float
    """Longest the event loop was late in this interval, in seconds."""
    cache_hit_share: float | None = None
    """Share of the states it expanded in this interval whose keys and values were there; None where it cannot tell."""
    value_explains: tuple[float, ...] = ()
    """Share of the variance of paths' rewards that V explains after their first step, second, and so on: of paths that
    search by index ran to their end whatever V said. Empty before there are some."""
    num_out: int = 0
    """Trajectories finished, of this life, and not used yet."""
    num_waiting: int = 0
    """Finished trees that wait for the trainer to use some of those."""


class WeightsRow(Struct, frozen=True, kw_only=True, tag="weights", tag_field="kind"):
    """Weights given out by the trainer, or taken by a generator."""

    time_s: float = field(default_factory=time.time)
    """When the row was written, in seconds since 1970."""
    source: str
    """`trainer-0` for a version published, `generator-N` for one applied."""
    life: str
    """The trainer's life: numbers may come again after it was started again."""
    version: int
    """The policy's."""
    checksum: int
    """Checksum of all tensors: equal where the weights are."""
    num_bytes: int
    """On the wire: what the generator got, or what the trainer gives to one that has the version before."""
    dense_bytes: int = 0
    """Bytes of all tensors."""
    is_delta: bool = False
    """Whether these bytes are what changed, or all."""
    changed_share: float | None = None
    """Elements that differ from the version before, of all. At a generator those that its deltas changed, summed up
    where there were several; None where it got all bytes."""
    seconds: float
    """In all: to gather and encode them, or to fetch and apply them."""
    num_given: int | None = None
    """At the trainer: times that weights left it since the row before, to generators that asked. Few where generators
    hand them on."""
    given_bytes: int | None = None
    """At the trainer: bytes that left with these."""
    encode_s: float | None = None
    """At the trainer: to find what changed and make frames, off the event loop, in seconds."""
    wire_s: float | None = None
    """At a generator, as all below: from its question to the whole answer, in seconds."""
    decode_s: float | None = None
    """To decode, apply and check the frames, off the event loop, in seconds."""
    pause_s: float | None = None
    """How long generation stood still for them, in seconds."""


class EvaluationRow(Struct, frozen=True, kw_only=True, tag="evaluation", tag_field="kind"):
    """Progress of an evaluation; `num_done == num_problems` in its last row."""

    time_s: float = field(default_factory=time.time)
    """When it was written, seconds since 1970."""
    when: Literal["before", "during", "after"]
    """Before training, or after it, on held-out problems; during it on validation problems, once it is done."""
    update: int | None = None
    """During training: that of the weights evaluated."""
    num_done: int
    """Problems sampled and graded so far."""
    num_problems: int
    """Problems in all."""
    k: int
    """Samples of each problem."""
    mean_at_k: float
    """Share of samples that solve their problem, 0 to 1, mean over the problems done."""
    ci95: tuple[float, float]
    """Its normal 95% interval over the problems done."""


class EventRow(Struct, frozen=True, kw_only=True, tag="event", tag_field="kind"):
    """Something worth a line: a start, a stop, a wait that grew long, a checkpoint."""

    time_s: float = field(default_factory=time.time)
    """When it was written, seconds since 1970."""
    source: str
    """`launcher`, `generator-0`, `trainer-0`, `evaluate`"""
    text: str
    """One line, for people; no program reads it."""
    is_warning: bool = False
    """Whether something looks wrong with the run."""


Phase = Literal[
    "launched", "evaluation before", "training", "evaluation after", "trained already", "stopping", "done", "failed"
]
"""Phases of a launch: `launched` is its first, `done` and `failed` are its last."""


class PhaseRow(Struct, frozen=True, kw_only=True, tag="phase", tag_field="kind"):
    """A launch comes to a phase."""

    time_s: float = field(default_factory=time.time)
    """When it was written, seconds since 1970."""
    phase: Phase
    """What begins now."""
    about: str = ""
    """For people: what is launched, what failed, what came of it."""

    @property
    def source(self) -> str:
        return LAUNCHER

    @property
    def text(self) -> str:
        return f"{self.phase}: {self.about}" if self.about else self.phase


class ProcessRow(Struct, frozen=True, kw_only=True, tag="process", tag_field="kind"):
    """What befell a process of the run, by its launcher."""

    time_s: float = field(default_factory=time.time)
    """When it was written, seconds since 1970."""
    process: str
    """`generator-0`, `trainer-0`."""
    what: Literal["restarted", "given up", "frozen", "late", "lost"]
    """`restarted`: it ended badly, and is started again. `given up`: it ended badly too often. `frozen`: its event loop
    stood still, and it was killed. `late`: told to end, it did not, and was killed. `lost`: the machine that it ran on
    is gone from the cluster."""
    cause: str
    """For people: how it ended."""
    then: str = ""
    """For people: what is done about it."""

    @property
    def source(self) -> str:
        return LAUNCHER

    @property
    def text(self) -> str:
        return f"{self.cause}; {self.then}" if self.then else self.cause


Told = EventRow | PhaseRow | ProcessRow
"""What people are told in a line: each has a `source` and a `text`."""

MetricsRow = UpdateRow | GeneratorRow | WeightsRow | EvaluationRow | EventRow | PhaseRow | ProcessRow


class Sink(Protocol):
    """Another place that takes rows."""

    def write(self, row: MetricsRow) -> None: ...


class MetricsWriter:
    """Appends rows to a run's metrics file, and hands them on where somebody else wants them too."""

    def __init__(self, run_dir: Path, also: Sink | None = None) -> None:
        self._also, self._path = also, run_dir / METRICS_FILE
        with self._refusals():
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":  # of a row that a full disk cut short
                os.write(self._file, b"\n")

    def write(self, row: MetricsRow) -> None:
        """Raises DiskError where the disk takes none of it, or not all."""
        line = msgspec.json.encode(_json(msgspec.to_builtins(row))) + b"\n"
        with self._refusals():
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._also is not None:
            self._also.write(row)

    def event(self, source: str, text: str, *, is_warning: bool = False) -> None:
        self.write(EventRow(source=source, text=text, is_warning=is_warning))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError(f"cannot write {self._path}: {error.strerror}; free some space, then resume") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def _json(value: Any) -> Any:
    """With what JSON has no numbers for as text, which the reader turns back."""
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class MetricsReader:
    """Reads the rows added since the last call; a line still being written waits for the next one."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / METRICS_FILE
        self._offset = 0
        self.num_damaged = 0
        """Lines that were no rows."""
        self._decoder = msgspec.json.Decoder(MetricsRow, strict=False)

    def read(self) -> list[MetricsRow]:
        """New rows, oldest first; none while there is no file."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._offset += len(whole) + 1
        rows: list[MetricsRow] = []
        for line in whole.split(b"\n"):
            try:
                rows.append(self._decoder.decode(line))
            except msgspec.DecodeError:
                self.num_damaged += 1  # a full disk cuts lines short; the rest of the file is still good
        return rows
