"""The dashboard: what a run's rows come to, and how it is drawn."""

import asyncio
import errno
import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.drawing import (
    START,
    absorbed,
    drawn,
    make_busy_run,
    make_evaluation,
    make_event,
    make_generator,
    make_phase,
)
from tests.support.rows import update_row
from tsd.observe.dashboard import Board, board_of, plain_line, render, save_picture, watch
from tsd.observe.live import draw_glance, read_glance, write_glance
from tsd.observe.marks import interval_bar, sparkline
from tsd.observe.metrics import MetricsWriter
from tsd.observe.state import RunState
from tsd.types import Glance, GlanceStep


@pytest.mark.parametrize("num_generators", [0, 1, 6, 7, 64])
@pytest.mark.parametrize("num_updates", [0, 1, 200])
def test_the_picture_fits_80_by_24(num_generators: int, num_updates: int) -> None:
    lines = drawn(absorbed(make_busy_run(num_generators, num_updates)), START + 720)
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert any("checkpoint" in line for line in lines), "the last events are always to be seen"


def test_the_picture_shows_what_matters() -> None:
    text = "\n".join(drawn(absorbed(make_busy_run(2, 100)), START + 720))
    for part in (
        "runs/20250131-120000",
        "training",
        "0:12:00 so far",
        "update 100/200",
        "0.1234",
        "0.00123",
        "0.0999",
        "1.002",
        "0.4 versions",
        "12,345 tok/s",
        "3 stale, 1 invalid",
        "1,423",
        "34,568",
        "12 ms",
        "34%",
        "best 50.0%",
        "trainer for trajectories",
        "for trainer 3 trees; 62 out",
        "15.9% [14.8%, 17.0%]",
        "├",
    ):
        assert part in text


GLANCE = Glance(
    prompt="5 13 5 9=31:",
    num_simulations=12,
    max_simulations=64,
    num_generated=340,
    max_tokens=880,
    num_nodes=30,
    solved=True,
    steps=(
        GlanceStep(1, "<step>13-9=4|4 5 5</step>", 2, -0.5, False),
        GlanceStep(1, "<step>5*5=25|9 13 25</step>\n\x1b[2J", 9, 0.25, True),
        *(GlanceStep(depth, "<step>x</step>", 3, 0.5, True) for depth in range(2, 60)),
        GlanceStep(60, "<answer>[bold]5*5", 1, 1.0, True, solved=True),
    ),
)


def test_where_there_is_room_a_tree_is_shown_and_events_still_are() -> None:
    state = absorbed(make_busy_run(6, 200))
    state.glance = GLANCE
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(render(state, START + 720, 200, 49))
    lines = console.export_text().splitlines()
    assert len(lines) <= 49
    text = "\n".join(lines)
    for part in (
        "5 13 5 9=31:",
        "simulation 12 of 64, 340 of 880 tokens, 30 nodes, solved",
        "N    9 Q +0.25 > <step>5*5=25",
        "checkpoint",
    ):
        assert part in text
    assert "\x1b" not in text
    assert len(drawn(state, START + 720)) < 24, "80 by 24 has no room for it"


def test_a_tree_is_drawn_within_its_lines_and_marks_what_solves() -> None:
    assert [len(draw_glance(GLANCE, num)) for num in (1, 5, 99)] == [1, 5, 61 + 1]
    last = draw_glance(GLANCE, 99)[-1].plain
    assert last.startswith("N    1 Q +1.00 * ")
    assert last.endswith("<answer>[bold]5*5"), "text is no markup"
    assert draw_glance(None, 9)[0].plain == "no tree yet"


def test_a_glance_is_read_back_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    assert read_glance(tmp_path) is None
    write_glance(tmp_path, GLANCE)
    assert read_glance(tmp_path) == GLANCE
    (tmp_path / "glance.json").write_text('{"prompt": 1')
    assert read_glance(tmp_path) is None
    write_glance(tmp_path / "nowhere", GLANCE)  # a full disk ends no search


def test_an_empty_run_is_drawn() -> None:
    assert "starting" in drawn(RunState(name="x"), START)[0]


@pytest.mark.parametrize("width", [20, 40, 200])
def test_any_width_is_drawn(width: int) -> None:
    assert max(map(len, drawn(absorbed(make_busy_run(3, 50)), START, width))) <= width


def test_remaining_time_follows_recent_updates() -> None:
    state = absorbed(make_busy_run(1, 100)[:-60])
    assert state.remaining(now=START + 60 + 500) == pytest.approx(500)
    assert state.remaining(now=START + 60 + 510) == pytest.approx(490)


def test_remaining_time_follows_the_evaluation() -> None:
    state = absorbed([make_phase("evaluation after", START), make_evaluation("after", 100, START + 10)])
    assert state.remaining(now=START + 10) == pytest.approx(30)


def test_pauses_between_launches_are_not_run_time() -> None:
    state = absorbed([make_phase("launched", 0), make_phase("training", 10), make_phase("launched", 5000)])
    state.absorb(make_phase("training", 5007))
    assert state.elapsed(now=5009) == 10 + 7 + 2
    state.absorb(make_phase("done", 5010, "see summary.json"))
    assert state.elapsed(now=9000) == 20


def test_updates_made_again_after_a_resume_replace_the_lost_ones() -> None:
    state = absorbed([update_row(number, number) for number in (1, 2, 3, 4)])
    state.absorb(update_row(3, 10, exact_share=0.9))
    assert [(row.update, row.exact_share) for row in state.updates] == [(1, 0.005), (2, 0.01), (3, 0.9)]


def test_rows_become_plain_lines() -> None:
    line = plain_line(update_row(12, START))
    assert line is not None
    assert "update 12/200: solved 6.0%, reward -0.140, loss 0.1234" in line
    assert "evaluation before: 20/400 problems, mean@16 15.9%" in (
        plain_line(make_evaluation("before", 20, START)) or ""
    )
    assert (plain_line(make_event("hello", START)) or "").endswith("launcher: hello")
    assert plain_line(make_generator(0, START)) is None


def test_sparklines_cover_the_range_and_no_more_than_their_width() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([0.5], 10) == "▁"
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert len(sparkline(range(1000), 37)) == 37


def test_interval_bars_are_to_scale() -> None:
    assert interval_bar(0.2, 0.5, 0.8, 1.0, 11) == "  ├──●──┤"
    assert interval_bar(0.0, 0.0, 0.0, 0.0, 5) == "●"


async def _follow(board: Board, until: asyncio.Event) -> None:
    following = asyncio.create_task(board.follow())
    await until.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_board_shows_what_is_written_until_its_end(tmp_path: Path, terminal: bool) -> None:
    out, seen = io.StringIO(), asyncio.Event()
    with MetricsWriter(tmp_path) as metrics:
        metrics.event("launcher", "of an earlier launch")
        board = Board(tmp_path, Console(file=out, force_terminal=terminal, width=80, height=24))
        metrics.event("launcher", "hello")
        asyncio.get_running_loop().call_soon(seen.set)
        await _follow(board, seen)
    assert "hello" in out.getvalue()
    assert terminal or "earlier" not in out.getvalue()


def test_a_run_is_exported_as_svg(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as metrics:
        for row in make_busy_run(2, 30):
            metrics.write(row)
    save_picture(tmp_path, tmp_path / "board.svg")
    assert "<svg" in (tmp_path / "board.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("terminal", [False, True])
async def test_whoever_watches_sees_a_run_to_its_end(tmp_path: Path, terminal: bool) -> None:
    out = io.StringIO()
    with MetricsWriter(tmp_path) as metrics:
        for row in make_busy_run(2, 30):
            metrics.write(row)
        async with asyncio.TaskGroup() as group:
            console = Console(file=out, force_terminal=terminal, width=80, height=24)
            group.create_task(watch(board_of(tmp_path, console), console))
            await asyncio.sleep(0)  # it has drawn once
            metrics.write(make_phase("done", START + 900, "solved more"))
    assert "update 30/200" in out.getvalue()
    assert "done: solved more" in out.getvalue()


async def test_a_board_whose_terminal_is_gone_goes_on_and_says_so_once(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    told = list[OSError]()
    with os.fdopen(theirs, "w") as terminal, MetricsWriter(tmp_path) as metrics:
        board = Board(tmp_path, Console(file=terminal, width=80), lost=told.append)
        os.close(ours)
        metrics.write(make_phase("done", START))
        await board.follow(to_the_end=True)
    assert [error.errno for error in told] == [errno.EIO]
    assert board.state.phase == "done"


async def test_an_ended_run_is_drawn_once_as_it_was_then(tmp_path: Path) -> None:
    out = io.StringIO()
    with MetricsWriter(tmp_path) as metrics:
        for row in [*make_busy_run(2, 30), make_phase("done", START + 800, "solved more")]:
            metrics.write(row)
    console = Console(file=out, width=80)
    await watch(board_of(tmp_path, console), console)
    assert "done: solved more" in out.getvalue()
    assert " 750 s" in out.getvalue()


def test_a_directory_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no metrics"):
        board_of(tmp_path, Console())
