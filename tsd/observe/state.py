"""A run as its metrics rows tell it: phase, time, the last of everything. Knows nothing about how it is drawn."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from tsd.observe.metrics import (
    EvaluationRow,
    EventRow,
    GeneratorRow,
    MetricsRow,
    Phase,
    PhaseRow,
    ProcessRow,
    Told,
    UpdateRow,
)
from tsd.types import Glance

ENDED: tuple[Phase, ...] = ("done", "failed")
NUM_RECENT = 20
"""Updates the remaining time is told from."""
NUM_EVENTS = 50


@dataclass
class RunState:
    """What has been seen so far."""

    name: str = ""
    phase: Phase | Literal["starting"] = "starting"
    phase_began_s: float = 0.0
    elapsed_s: float = 0.0
    """Time of all launches, up to the last row."""
    last_row_s: float | None = None
    updates: list[UpdateRow] = field(default_factory=list)
    """Those that stand: updates made again after a resume replace the lost ones."""
    recent: deque[UpdateRow] = field(default_factory=lambda: deque(maxlen=NUM_RECENT))
    """The last updates of this launch."""
    generators: dict[int, GeneratorRow] = field(default_factory=dict)
    best_rates: dict[int, float] = field(default_factory=dict)
    """Most tokens/s that each generator has reported in this launch."""
    glance: Glance | None = None
    """A tree being searched."""
    evaluations: dict[str, EvaluationRow] = field(default_factory=dict)
    validations: list[EvaluationRow] = field(default_factory=list)
    """Beside training."""
    events: deque[Told] = field(default_factory=lambda: deque(maxlen=NUM_EVENTS))

    @property
    def update(self) -> UpdateRow | None:
        """The last one."""
        return self.updates[-1] if self.updates else None

    def best_rate(self, generator: int) -> float:
        """What its tokens/s are shown as a share of; 0 before the first report."""
        return self.best_rates.get(generator, 0.0)

    def absorb(self, row: MetricsRow) -> None:
        """Takes in the next row."""
        if isinstance(row, PhaseRow):
            self._follow(row)
        if self.last_row_s is not None:
            self.elapsed_s += max(0.0, row.time_s - self.last_row_s)
        self.last_row_s = row.time_s
        match row:
            case UpdateRow():
                while self.updates and self.updates[-1].update >= row.update:
                    self.updates.pop()
                self.updates.append(row)
                self.recent.append(row)
            case GeneratorRow():
                self.generators[row.generator] = row
                self.best_rates[row.generator] = max(row.tokens_per_s, self.best_rate(row.generator))
            case EvaluationRow(when="during", update=int(update)):
                # In order; those of updates made again after a resume replace the lost ones.
                self.validations = [one for one in self.validations if (one.update or 0) < update] + [row]
            case EvaluationRow():
                self.evaluations[row.when] = row
            case EventRow() | PhaseRow() | ProcessRow():
                self.events.append(row)

    def _follow(self, row: PhaseRow) -> None:
        if row.phase == "launched":
            # The time between two launches is not the run's, and rates do not carry over.
            self.last_row_s, self.phase = None, "starting"
            self.recent.clear()
            self.generators.clear()
            self.best_rates.clear()
        elif row.phase != "trained already":
            self.phase, self.phase_began_s = row.phase, row.time_s

    def elapsed(self, now: float) -> float:
        """Time of all launches, up to now."""
        if self.last_row_s is None or self.phase in ENDED:
            return self.elapsed_s
        return self.elapsed_s + max(0.0, now - self.last_row_s)  # a clock may be set back

    def remaining(self, now: float) -> float | None:
        """An estimate for this phase, where there is something to tell it from."""
        evaluation = self.evaluations.get(self.phase.removeprefix("evaluation "))
        if evaluation is not None and evaluation.time_s >= self.phase_began_s and evaluation.num_done:
            each = (evaluation.time_s - self.phase_began_s) / evaluation.num_done
            return max(0.0, each * (evaluation.num_problems - evaluation.num_done) - (now - evaluation.time_s))
        if self.phase == "training" and len(self.recent) > 1:
            first, last = self.recent[0], self.recent[-1]
            each = (last.time_s - first.time_s) / (last.update - first.update)
            return max(0.0, each * (last.num_updates - last.update) - (now - last.time_s))
        return None
