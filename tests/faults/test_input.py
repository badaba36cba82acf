"""What peers, models and users may send or write: bounded, refused or shown as it is, and never obeyed."""

import asyncio
import io
import json
import math
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio
from rich.console import Console

from tests.support.drawing import absorbed, drawn, make_event, make_phase
from tests.support.rows import update_row
from tests.support.trajectories import make_trajectory
from tests.support.wire import PATIENCE_S, trajectory
from tsd.cli.app import exit_code
from tsd.cli.commands import describe_solution
from tsd.errors import FrameError
from tsd.observe.dashboard import plain_line, render
from tsd.observe.metrics import EventRow, MetricsReader, MetricsWriter, UpdateRow
from tsd.observe.printable import printable
from tsd.solve.solve import Solution
from tsd.tasks.countdown import Countdown, make_problem
from tsd.tasks.expression import evaluate
from tsd.transport.addresses import Addresses
from tsd.transport.codec import HEAD_BYTES, MAX_TRAJECTORY_BYTES, decode, encode, seal
from tsd.transport.progress import MAX_PROGRESS_BYTES, Progress, ProgressPublisher, ProgressSubscriber
from tsd.transport.spool import Lane
from tsd.transport.trajectories import Inbox, Outbox
from tsd.transport.validate import MAX_NAME, MAX_PARTS, validate
from tsd.types import NO_PARENT, Grade, Trajectory

SMALL_BYTES = 2**20
LONG = "\xdd\xff\xff\xff\xff".encode("latin-1")
WIDE = "\xdf\xff\xff\xff\xff".encode("latin-1")

# Frames


def spoilt(**fields: bytes) -> bytes:
    """A trajectory's frame in which some fields hold those bytes of MessagePack; a name of no field adds one."""
    packed = msgspec.msgpack.decode(encode(trajectory("0-a"))[HEAD_BYTES:], type=dict[str, msgspec.Raw])
    raws = packed | {name: msgspec.Raw(data) for name, data in fields.items()}
    return seal(msgspec.msgpack.encode(raws))


def test_a_frame_put_together_anew_is_what_it_was() -> None:
    assert decode(spoilt(), Trajectory).id == "0-a-0"
    assert decode(spoilt(unknown=b"\x90"), Trajectory).id == "0-a-0"


@pytest.mark.parametrize("field", ["tokens", "sender", "grade", "unknown"])
@pytest.mark.parametrize(
    "value",
    [b"\x91" * 1_000_000 + b"\x90", b"\x81\xa1a" * 300_000 + b"\x90", LONG, WIDE, LONG + b"\x01" * 1000],
    ids=["lists in lists", "tables in tables", "an endless list", "an endless table", "a list that stops short"],
)
def test_what_claims_or_nests_without_end_is_a_frame_error_in_little_memory(field: str, value: bytes) -> None:
    frame = spoilt(**{field: value})
    tracemalloc.start()
    with pytest.raises(FrameError, match="expected a Trajectory frame"):
        decode(frame, Trajectory)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < SMALL_BYTES + 64 * min(len(value), 10_000)


def test_a_frame_of_a_socket_is_bounded_before_it_is_read() -> None:
    with pytest.raises(FrameError, match=f"at most {MAX_TRAJECTORY_BYTES} bytes"):
        decode(b"\x00" * (MAX_TRAJECTORY_BYTES + 1), Trajectory)
    with pytest.raises(FrameError, match=f"at most {MAX_PROGRESS_BYTES} bytes"):
        decode(b"\x00" * (MAX_PROGRESS_BYTES + 1), Progress, max_bytes=MAX_PROGRESS_BYTES)


# Trajectories


def graded(reward: float = 0.0, **parts: float) -> dict[str, Any]:
    return {"grade": Grade(reward, exact=False, well_formed=False, parts=parts)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": -1}, "its place or its cost is no such number"),
        ({"position": -5}, "its place or its cost is no such number"),
        ({"position": 2**63}, "its place or its cost is no such number"),
        ({"num_generated": -(10**9)}, "its place or its cost is no such number"),
        ({"num_generated": 2**62}, "its place or its cost is no such number"),
        (graded(1.5), "a reward is not from -1 to 1"),
        (graded(0.5, task=-1e30), "a reward is not from -1 to 1"),
        (graded(0.5, **{f"part {i}": 0.0 for i in range(MAX_PARTS + 1)}), "more than 64 rewards"),
        (graded(0.5, **{"x" * (MAX_NAME + 1): 0.0}), "or one with an endless name"),
    ],
)
def test_absurd_numbers_in_a_trajectory_are_refused(changes: dict[str, Any], message: str) -> None:
    validate(trajectory("0-a"))
    validate(trajectory("0-a", **graded(-1.0, **{f"{i}".rjust(MAX_NAME): 1.0 for i in range(MAX_PARTS)})))
    with pytest.raises(FrameError, match=message):
        validate(trajectory("0-a", **changes))


def test_a_path_longer_than_any_of_the_run_is_refused_and_a_large_tree_is_not() -> None:
    forked = make_trajectory(0, [30, 40, 40, 40], [NO_PARENT, 0, 0, 0])
    validate(forked, longest=70)
    with pytest.raises(FrameError, match="trajectory 0-a-0: a path of 70 tokens, of which a run takes 60"):
        validate(forked, longest=60)
    with pytest.raises(FrameError, match="a path of 100 tokens"):
        validate(make_trajectory(0, [30, 40, 30]), longest=60)


@pytest.mark.parametrize(
    "sender", ["../../etc/x", "0-../x", "0-a/b", "", "x", "0-", "-a", "0-\x1b[2J", "0-" + "a" * 99]
)
async def test_a_sender_of_no_such_name_is_dropped_and_leaves_no_trace(
    sender: str, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with Inbox(context, addresses.trajectories, 4, {}) as inbox, context.socket(zmq.PUSH) as wire:
        wire.connect(addresses.trajectories)
        for name in (sender, "0-a"):
            await wire.send(encode(trajectory(name)))
        found = await inbox.next(PATIENCE_S)
        assert (found.sender, inbox.num_damaged, inbox.received) == ("0-a", 1, {"0-a": 1})


# Progress

SAID: dict[str, Any] = {"life": "a", "version": 1, "received": {"0-a": 3}, "used": {"0-a": 2}, "saved": {}, "asked": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": -1},
        {"version": 2**60},
        {"received": {"0-a": -1}},
        {"used": {"0-a": -7}},
        {"saved": {"0-a": 2**60}},
        {"saved": {"0-a": 1.5}},
        {"asked": -1},
        {"life": "x" * 65},
    ],
)
async def test_absurd_progress_is_passed_over(
    changes: dict[str, Any], context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    with (
        ProgressPublisher(context, addresses.progress) as speaker,
        ProgressSubscriber(context, addresses.progress) as listener,
    ):
        heard = asyncio.create_task(listener.newest(PATIENCE_S))
        while not heard.done():
            await speaker._socket.send(seal(msgspec.msgpack.encode(SAID | changes)))
            await asyncio.wait({heard}, timeout=0.02)
            if listener.num_damaged:
                await speaker._socket.send(seal(msgspec.msgpack.encode(SAID)))
        assert listener.num_damaged > 0
        assert await heard == Progress(**SAID)


@pytest.mark.parametrize(
    ("received", "used", "saved"), [(99, 99, 99), (5, 5, 0), (4, 4, 5), (4, 5, 4), (3, 2, 4)], ids=str
)
async def test_a_spool_keeps_what_the_trainer_cannot_have(
    received: int, used: int, saved: int, context: zmq.asyncio.Context, addresses: Addresses
) -> None:
    lane = Lane(Path(addresses.base), "0-a")
    with Outbox(context, addresses.trajectories, 4, lane, [], 100) as box:
        await box.put([trajectory() for _ in range(4)], PATIENCE_S)
        said = {"received": {"0-a": received}, "used": {"0-a": used}, "saved": {"0-a": saved}}
        box.heard(Progress(**SAID | said))
        assert box.num_absurd == 1
        box.heard(Progress(**SAID | {"received": {"0-a": 4}, "used": {"0-a": 3}, "saved": {"0-a": 2}, "life": "b"}))
        running = asyncio.create_task(box.run())
        await asyncio.wait({running}, timeout=0.2)
        running.cancel()
    assert (box.num_absurd, lane.num_saved, lane.num_appended) == (1, 2, 4)


# What a model writes

HOSTILE: list[tuple[str, Callable[[int], str]]] = [
    ("spaces", lambda n: "<step>" + " " * n),
    ("steps", lambda n: "<step>5+9=14|14</step>" * (n // 22)),
    ("numbers", lambda n: "<step>5+9=14|" + "1 " * (n // 2) + "</step>"),
    ("commas", lambda n: "<step>5+9=14|1" + ", " * (n // 2)),
    ("opened", lambda n: "<answer>" * (n // 8)),
    ("digits", lambda n: "<step>" + "9" * n),
    ("closed", lambda n: "</step>" * (n // 7)),
]


@pytest.mark.parametrize(("name", "make"), HOSTILE, ids=[name for name, _ in HOSTILE])
def test_a_model_may_write_a_long_time_without_costing_one(name: str, make: Callable[[int], str]) -> None:
    problem, times = make_problem((5, 9), 14), []
    text = make(400_000)
    for _ in range(3):
        started = time.perf_counter()
        Countdown().grade(problem, text)
        times.append(time.perf_counter() - started)
    assert min(times) < 1.0


def test_the_largest_number_that_an_expression_makes_is_small() -> None:
    found = evaluate("*".join(["999999"] * 28))
    assert found is not None
    assert found[0].numerator.bit_length() < 28 * 20
    assert evaluate("*".join(["999999"] * 29)) is None


# What is shown

EVIL = "a\x1b[2J\x1b]0;owned\x07b\x9b31m\r\x08\u202e\ud800[red]x[/][/bold]\ntail"


def is_clean(text: str) -> bool:
    return all(one.isprintable() or one == "\n" for one in text)


def test_what_is_not_to_be_seen_is_written_out() -> None:
    assert printable("plain, ünïcode 5×9") == "plain, ünïcode 5×9"  # noqa: RUF001
    assert printable("\x1b[31m\x9b\u202e\r\n\ud800") == r"\x1b[31m\x9b\u202e\r\n\ud800"
    assert printable("a\nb\x07", keep="\n") == "a\nb\\x07"


def test_events_with_escapes_and_markup_are_drawn_as_they_are() -> None:
    state = absorbed(
        [make_phase("launched", 0, "x"), make_event(EVIL, 1, source=f"gen{EVIL}"), make_event("[red]x[/][/bold]", 2)]
    )
    text = "\n".join(drawn(state, 3, width=200))
    assert is_clean(text)
    assert "[red]x[/][/bold]" in text
    assert r"\x1b[2J" in text
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=200)
    console.print(render(state, 3, 200))
    assert "\x1b" not in out.getvalue()
    line = plain_line(EventRow(source="generator-0", text=EVIL))
    assert line is not None
    assert is_clean(line)
    assert "\n" not in line


def test_reasons_with_markup_do_not_break_the_picture() -> None:
    row = msgspec.structs.replace(update_row(3, 5), num_refused={"[/bold]": 2, "\x1b[2J": 1})
    text = "\n".join(drawn(absorbed([row]), 6))
    assert "2 [/bold], 1 \\x1b[2J" in text


def test_a_solution_is_printed_without_what_a_terminal_obeys() -> None:
    solution = Solution(
        problem="p",
        steps=(EVIL, "<answer>5+9</answer>"),
        grade=Grade(1.0, exact=True, well_formed=True),
        ended_by="solved",
        num_simulations=1,
        num_expansions=1,
        num_nodes=2,
        generated_tokens=3,
    )
    text = describe_solution(solution)
    assert is_clean(text)
    assert "[red]x[/][/bold]\ntail\n<answer>5+9</answer>" in text


def test_an_error_that_quotes_is_printed_without_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise ValueError(f"no such thing: {EVIL}")

    assert exit_code(refuse) == 2
    assert is_clean(capsys.readouterr().err)


# What is measured


def test_rows_are_json_whatever_was_measured_and_are_read_back(tmp_path: Path) -> None:
    row = msgspec.structs.replace(
        update_row(1, 5),
        loss=math.nan,
        ratio_mean=math.inf,
        ratio_quantiles=(-math.inf, 1.0, math.inf),
        rewards={"task": math.nan},
    )
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(row)

    def never(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    plain = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=never)
    assert (plain["loss"], plain["ratio_quantiles"], plain["rewards"]) == ("nan", ["-inf", 1, "inf"], {"task": "nan"})
    assert (plain["kind"], plain["update"], plain["explained_variance"]) == ("update", 1, None)
    (found,) = MetricsReader(tmp_path).read()
    assert isinstance(found, UpdateRow)
    assert math.isnan(found.loss)
    assert np.array_equal(found.ratio_quantiles, (-math.inf, 1.0, math.inf))
    drawn(absorbed([found]), 6)
