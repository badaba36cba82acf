"""A run as rows, and as it is drawn."""

import io
from collections.abc import Sequence

from rich.console import Console

from tests.support.rows import update_row
from tsd.observe.dashboard import render
from tsd.observe.metrics import EvaluationRow, EventRow, GeneratorRow, MetricsRow, Phase, PhaseRow
from tsd.observe.state import RunState

START = 1_700_000_000.0


def make_generator(index: int, time_s: float) -> GeneratorRow:
    return GeneratorRow(
        time_s=time_s,
        generator=index,
        version=3,
        num_trees=1_234,
        num_simulations=99_999,
        generated_tokens=12_345_678,
        simulations_per_s=1423.3,
        tokens_per_s=34_567.8,
        solved_share=0.34 if index else None,
        loop_lag_s=0.0123,
        cache_hit_share=0.87,
        num_out=31,
        num_waiting=1 + index,
    )


def make_evaluation(when: str, num_done: int, time_s: float) -> EvaluationRow:
    assert when in ("before", "after")
    return EvaluationRow(
        time_s=time_s,
        when="before" if when == "before" else "after",
        num_done=num_done,
        num_problems=400,
        k=16,
        mean_at_k=0.159,
        ci95=(0.148, 0.17),
    )


def make_event(text: str, time_s: float, source: str = "launcher") -> EventRow:
    return EventRow(time_s=time_s, source=source, text=text)


def make_phase(phase: Phase, time_s: float, about: str = "") -> PhaseRow:
    return PhaseRow(time_s=time_s, phase=phase, about=about)


def make_busy_run(num_generators: int, num_updates: int) -> list[MetricsRow]:
    rows: list[MetricsRow] = [make_phase("launched", START, "a run"), make_phase("evaluation before", START)]
    rows += [make_evaluation("before", 400, START + 40), make_phase("training", START + 41, "to update 200")]
    rows += [make_generator(index, START + 50) for index in range(num_generators)]
    rows += [update_row(number, START + 60 + 5 * number) for number in range(1, num_updates + 1)]
    rows += [make_event("checkpoint of a very long name " * 9, START + 700, "trainer-0") for _ in range(60)]
    return rows


def absorbed(rows: Sequence[MetricsRow]) -> RunState:
    state = RunState(name="runs/20250131-120000")
    for row in rows:
        state.absorb(row)
    return state


def drawn(state: RunState, now: float, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(render(state, now, width))
    return console.export_text().splitlines()
