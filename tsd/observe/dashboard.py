"""The live dashboard: one pure function from a run's state to a picture of at most 23 lines.

Reads metrics rows and nothing else; knows nothing about processes. Words and shapes carry every meaning, colour none.
"""

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tsd.observe.live import draw_glance, read_glance
from tsd.observe.marks import interval_bar, sparkline
from tsd.observe.metrics import (
    EvaluationRow,
    EventRow,
    GeneratorRow,
    MetricsReader,
    MetricsRow,
    PhaseRow,
    ProcessRow,
    Sink,
    Told,
    UpdateRow,
    WeightsRow,
)
from tsd.observe.output import lasting
from tsd.observe.printable import printable
from tsd.observe.state import ENDED, RunState

HEIGHT = 23
"""A terminal of 24 lines, less the one the cursor stands on: all but the tree has room there."""
NUM_GENERATORS = 6
"""Most rows of the generators' table."""
ROOM_FOR_TREE = 5
TREE_TITLE = "a tree in search: visits N, mean value Q, > most visited, * solved"
REFRESH_S = 0.5
GENERATOR_COLUMNS = (
    *("generator", "version", "trees", "sims/s", "tokens/s", "of best", "cached", "solved", "lag", "seen"),
)
SVG_WIDTH, SVG_HEIGHT = 100, 40
NAME, QUIET = "cyan", "bright_black"


def render(state: RunState, now: float, width: int, height: int = HEIGHT) -> RenderableType:
    """The whole picture, `width` columns wide and no higher than `height`, with a tree where there is room for it."""
    trainer, evaluations = _trainer(state, width), _evaluations(state, width)
    generators, num_rows = _generators(state, now)
    tree = list[RenderableType]()
    if height >= HEIGHT + ROOM_FOR_TREE:
        tree = [_title(TREE_TITLE), *draw_glance(state.glance, (height - HEIGHT) * 2 // 3)]
    # A header, four titles; what is left over is for events.
    room = height - 5 - len(trainer) - num_rows - len(evaluations) - len(tree)
    return Group(
        _header(state, now),
        _title("trainer"),
        *trainer,
        _title("generators"),
        generators,
        _title("held-out problems, with 95% intervals"),
        *evaluations,
        *tree,
        _title("events"),
        *(_event(row) for row in list(state.events)[-room:]),
    )


def plain_line(row: MetricsRow) -> str | None:
    """A row as one line, for where there is no terminal; None for one that comes too often to read."""
    clock = time.strftime("%H:%M:%S", time.localtime(row.time_s))
    match row:
        case UpdateRow():
            return (
                f"{clock} update {row.update}/{row.num_updates}: solved {row.exact_share:.1%}, "
                f"reward {row.reward_mean:.3f}, loss {row.loss:.4g}, kl {row.kl:.4g}, grad norm {row.grad_norm:.3g}, "
                f"ratio {row.ratio_mean:.3f}, age {row.age_mean:.1f}, {row.tokens_per_s:,.0f} tokens/s, "
                f"waited {row.wait_s:.1f} s, refused {sum(row.num_refused.values())}"
            )
        case EvaluationRow():
            low, high = row.ci95
            done = f"{row.num_done}/{row.num_problems} problems"
            when = f"{row.when} training, update {row.update}" if row.when == "during" else row.when
            return f"{clock} evaluation {when}: {done}, mean@{row.k} {row.mean_at_k:.1%} ({low:.1%} to {high:.1%})"
        case EventRow() | PhaseRow() | ProcessRow():
            return f"{clock} {printable(row.source)}: {printable(row.text)}"
        case GeneratorRow() | WeightsRow():
            return None


class Board:
    """Shows a run while it runs: drawn in a terminal, as plain lines elsewhere. Hands new rows on to `also`.

    Where nobody reads what it shows any more, `lost` is told, and it goes on without; with no `lost` that is
    an error.
    """

    def __init__(
        self,
        run_dir: Path,
        console: Console,
        also: Sequence[Sink] = (),
        lost: Callable[[OSError], object] | None = None,
    ) -> None:
        self._run_dir, self._reader, self._console, self._also = run_dir, MetricsReader(run_dir), console, also
        self._output = partial(lasting, console.file, lost) if lost else nullcontext
        self._drawn = console.is_terminal and not console.is_dumb_terminal
        self.state = RunState(name=str(run_dir), glance=read_glance(run_dir))
        for row in self._reader.read():  # of earlier launches
            self.state.absorb(row)

    async def follow(self, to_the_end: bool = False) -> None:
        """Until cancelled, or with `to_the_end` until the run ends; what is new then is still shown."""
        live = Live(console=self._console, auto_refresh=False) if self._drawn else None
        try:
            if live is not None:
                with self._output():
                    live.start()
            while not (to_the_end and self.state.phase in ENDED):
                self._show(live)
                await asyncio.sleep(REFRESH_S)
        finally:
            self._show(live)
            if live is not None:
                with self._output():
                    live.stop()

    def _show(self, live: Live | None) -> None:
        for row in self._reader.read():
            self.state.absorb(row)
            for sink in self._also:
                sink.write(row)
            if live is None and (line := plain_line(row)) is not None:
                # Not the console's own print: where the reader has gone, that one exits from inside the event loop.
                with self._output():
                    print(line, file=self._console.file, flush=True)
        if live is not None:
            self.state.glance = read_glance(self._run_dir)
            with self._output():
                live.update(self.picture(), refresh=True)

    def picture(self) -> RenderableType:
        """As it is now; of an ended run, as it was at its end."""
        now = self.state.last_row_s if self.state.phase in ENDED else None
        height = max(HEIGHT, self._console.height - 1)
        return render(self.state, time.time() if now is None else now, self._console.width, height)


def board_of(run_dir: Path, console: Console) -> Board:
    """The board of a run that is, or was, launched elsewhere. Raises ValueError where there is none."""
    board = Board(run_dir, console)
    if board.state.last_row_s is None:
        raise ValueError(f"no metrics in {run_dir}: not a run directory, or nothing has happened yet; see ls runs")
    return board


def save_picture(run_dir: Path, svg: Path) -> None:
    """Draws a run into a file, SVG_WIDTH columns wide. Raises ValueError where there is none."""
    console = Console(record=True, width=SVG_WIDTH, height=SVG_HEIGHT, file=io.StringIO())
    console.print(board_of(run_dir, console).picture())
    console.save_svg(str(svg), title="tsd launch")


async def watch(board: Board, console: Console) -> None:
    """Shows a run until it ends."""
    if not console.is_terminal or board.state.phase in ENDED:
        console.print(board.picture())
    if board.state.phase not in ENDED:
        await board.follow(to_the_end=True)


def _header(state: RunState, now: float) -> Table:
    left = state.remaining(now)
    times = (f", about {_clock(left)} more" if left else "") + f"; {_clock(state.elapsed(now))} so far"
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True, ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_row(
        Text.assemble(("tsd ", f"bold {NAME}"), printable(state.name)), Text.assemble((state.phase, "bold"), times)
    )
    return grid


def _title(text: str) -> Rule:
    return Rule(Text(text, style=NAME), align="left", style=QUIET)


def _trainer(state: RunState, width: int) -> list[RenderableType]:
    """A line for each of its entries."""
    row = state.update
    if row is None:
        return [Text("no update yet", style=QUIET)]
    return [
        _progress(row, width),
        _pairs(("loss", _number(row.loss)), ("policy", _number(row.policy_loss)), ("value", _number(row.value_loss))),
        _pairs(("KL", _number(row.kl)), ("grad norm", _number(row.grad_norm)), ("ratio", f"{row.ratio_mean:.3f}")),
        _pairs(
            ("age", f"{row.age_mean:.1f} versions"),
            ("trained", f"{row.tokens_per_s:,.0f} tok/s"),
            ("waited", f"{row.wait_s:.1f} s"),
        ),
        _pairs(("used", f"{row.num_trajectories:,} trajectories; refused {_refused(row)}")),
        _pairs(("waits", _waits(state))),
        *_sight(state),
        _spark("solved", "{:.1%}", [update.exact_share for update in state.updates], width),
        _spark("reward", "{:.3f}", [update.reward_mean for update in state.updates], width),
    ]


def _progress(row: UpdateRow, width: int) -> Table:
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=row.num_updates, completed=row.update, width=max(8, width - 48))
    grid.add_row(f"update {row.update:,}/{row.num_updates:,}", bar, f"version {row.version}")
    return grid


def _pairs(*pairs: tuple[str, str]) -> Table:
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in pairs:
        grid.add_column(width=9, style=QUIET, no_wrap=True)
        grid.add_column(ratio=1, no_wrap=True)
    grid.add_row(*(Text(printable(text)) for pair in pairs for text in pair))  # bare text would be read as markup
    return grid


def _spark(name: str, form: str, values: Sequence[float], width: int) -> Text:
    last, best = form.format(values[-1]), f"best {form.format(max(values))}"
    line = sparkline(values, max(1, width - 32))
    return Text.assemble((f"{name:<9} ", QUIET), f"{last:<7} ", (line, NAME), (f" {best}", QUIET), no_wrap=True)


def _sight(state: RunState) -> list[RenderableType]:
    """What V explains of the rewards after each step, where a generator knows."""
    known = [row.value_explains for row in state.generators.values() if row.value_explains]
    if not known:
        return []
    shares = " ".join(f"{max(0.0, share):.0%}" for share in known[0])
    return [_pairs(("V explains", f"{shares} of rewards, after steps 1, 2 and so on"))]


def _waits(state: RunState) -> str:
    """Who waits for whom: the trainer for trajectories, finished trees for the trainer."""
    generators, recent = state.generators.values(), state.recent
    seconds = recent[-1].elapsed_s - recent[0].elapsed_s if len(recent) > 1 else 0.0
    share = sum(row.wait_s for row in list(recent)[1:]) / seconds if seconds > 0 else 0.0
    waiting, out = sum(row.num_waiting for row in generators), sum(row.num_out for row in generators)
    return f"trainer for trajectories {share:.0%}; for trainer {waiting:,} trees; {out:,} out"


def _generators(state: RunState, now: float) -> tuple[RenderableType, int]:
    """The table, and its height."""
    if not state.generators:
        return Text("none has reported yet", style=QUIET), 1
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style=QUIET)
    for name in GENERATOR_COLUMNS:
        table.add_column(name, justify="left" if name == "generator" else "right", no_wrap=True)
    rows = [state.generators[index] for index in sorted(state.generators)]
    shown = rows if len(rows) <= NUM_GENERATORS else rows[: NUM_GENERATORS - 1]
    for row in shown:
        table.add_row(str(row.generator), *_generator(row, state.best_rate(row.generator), now))
    if rest := rows[len(shown) :]:
        table.add_row(f"{len(rest)} more", *_generators_sum(rest))
    return table, 1 + min(len(rows), NUM_GENERATORS)


def _generator(row: GeneratorRow, best: float, now: float) -> tuple[str, ...]:
    return (
        str(row.version),
        f"{row.num_trees:,}",
        f"{row.simulations_per_s:,.0f}",
        f"{row.tokens_per_s:,.0f}",
        _share(row.tokens_per_s / best if best else None),
        _share(row.cache_hit_share),
        _share(row.solved_share),
        f"{row.loop_lag_s * 1000:.0f} ms",
        f"{max(0.0, now - row.time_s):.0f} s",
    )


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _generators_sum(rows: Sequence[GeneratorRow]) -> tuple[str, ...]:
    simulations, tokens = sum(row.simulations_per_s for row in rows), sum(row.tokens_per_s for row in rows)
    return "", f"{sum(row.num_trees for row in rows):,}", f"{simulations:,.0f}", f"{tokens:,.0f}"


def _evaluations(state: RunState, width: int) -> list[RenderableType]:
    highest = max((row.ci95[1] for row in state.evaluations.values()), default=1.0)
    shown = [_evaluation(when, state.evaluations.get(when), highest, width) for when in ("before", "after")]
    means = [row.mean_at_k for row in state.validations]
    return [*shown, _spark("validated", "{:.1%}", means, width)] if means else [*shown]


def _evaluation(when: str, row: EvaluationRow | None, highest: float, width: int) -> Text:
    if row is None:
        return Text(f"{when:<8}-", style=QUIET)
    low, high = row.ci95
    numbers = f"mean@{row.k} {row.mean_at_k:6.1%} [{low:.1%}, {high:.1%}]"
    done = f"{row.num_done}/{row.num_problems}"
    bar = interval_bar(low, row.mean_at_k, high, highest, max(1, width - 52))
    return Text.assemble((f"{when:<8}", QUIET), (f"{numbers:<31} {done:>9}  ", "bold"), (bar, NAME), no_wrap=True)


def _event(row: Told) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(row.time_s))
    source, text = printable(row.source), printable(row.text)
    return Text.assemble((f"{clock} ", QUIET), (source, NAME), f" {text}", no_wrap=True, overflow="ellipsis")


def _refused(row: UpdateRow) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in row.num_refused.items()) or "none"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
