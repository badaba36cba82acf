"""The rows of `metrics.jsonl`: every process of a run appends its own, the launcher and `tsd watch` read them all.

One row is one `write` of one line to a file opened for appending, so that rows of several processes do not mix. Knows
nothing about how they are drawn.
"""

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec
from msgspec import Struct, field

METRICS_FILE = "metrics.jsonl"


class UpdateRow(Struct, frozen=True, kw_only=True, tag="update", tag_field="kind"):
    """One optimizer update, by the trainer of rank 0."""

    time_s: float = field(default_factory=time.time)
    update: int
    num_updates: int
    version: int
    """The last version published."""
    loss: float
    policy_loss: float
    value_loss: float
    kl: float
    entropy: float
    grad_norm: float
    ratio_mean: float
    """Mean of policy / behaviour over the batch's tokens, before the step."""
    ratio_quantiles: tuple[float, ...] = ()
    """Of policy / behaviour, at 1%, 50% and 99%."""
    ratio_masked_share: float = 0.0
    """Share of tokens left out of the policy loss for their ratio."""
    effective_sample_share: float = 1.0
    """(sum r)^2 / (n sum r^2) of the ratios, 0 to 1."""
    explained_variance: float | None = None
    """1 - Var(R - V) / Var(R); None where all rewards were equal."""
    logprob_gap: float | None
    """Mean |trainer logprob - behaviour logprob| over tokens sampled from the trainer's own version, if any."""
    reward_mean: float
    exact_share: float
    age_mean: float
    """Versions between sampling and use."""
    ages: dict[str, int] = {}
    """Trajectories by that age."""
    num_trajectories: int
    """Used so far."""
    generated_tokens: int
    """Generated so far for the trajectories used."""
    num_refused: dict[str, int]
    """Refused so far, by reason."""
    tokens_per_s: float
    """Trained in this update."""
    wait_s: float
    """Time spent waiting for trajectories."""
    elapsed_s: float
    """Time trained, over all resumes."""


class GeneratorRow(Struct, frozen=True, kw_only=True, tag="generator", tag_field="kind"):
    """One generator's last few seconds."""

    time_s: float = field(default_factory=time.time)
    generator: int
    version: int
    num_trees: int
    """Finished so far."""
    num_simulations: int
    """So far."""
    generated_tokens: int
    """So far."""
    simulations_per_s: float
    tokens_per_s: float
    solved_share: float | None
    """Of the trees finished in this interval, if any."""
    loop_lag_s: float
    """Longest the event loop was late in this interval."""


class EvaluationRow(Struct, frozen=True, kw_only=True, tag="evaluation", tag_field="kind"):
    """Progress of an evaluation; `num_done == num_problems` in its last row."""

    time_s: float = field(default_factory=time.time)
    when: Literal["before", "after"]
    num_done: int
    num_problems: int
    k: int
    mean_at_k: float
    """Over the problems done."""
    ci95: tuple[float, float]


class EventRow(Struct, frozen=True, kw_only=True, tag="event", tag_field="kind"):
    """Something worth a line: a start, a stop, a wait that grew long, a checkpoint."""

    time_s: float = field(default_factory=time.time)
    source: str
    """`launcher`, `generator-0`, `trainer-0`, `evaluate`"""
    text: str


Row = UpdateRow | GeneratorRow | EvaluationRow | EventRow


class MetricsWriter:
    """Appends rows to a run's metrics file."""

    def __init__(self, run_dir: Path) -> None:
        self._file = os.open(run_dir / METRICS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, row: Row) -> None:
        os.write(self._file, msgspec.json.encode(row) + b"\n")

    def event(self, source: str, text: str) -> None:
        self.write(EventRow(source=source, text=text))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


class MetricsReader:
    """Reads the rows added since the last call; a line still being written waits for the next one."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / METRICS_FILE
        self._offset = 0
        self.num_damaged = 0
        """Lines that were no rows."""
        self._decoder = msgspec.json.Decoder(Row)

    def read(self) -> list[Row]:
        """New rows, oldest first; none while there is no file."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._offset += len(whole) + 1
        rows: list[Row] = []
        for line in whole.split(b"\n"):
            try:
                rows.append(self._decoder.decode(line))
            except msgspec.DecodeError:
                self.num_damaged += 1  # a full disk cuts lines short; the rest of the file is still good
        return rows
