"""What is written on a node comes to be in the run directory; and what a lost node held is counted, by id."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.trajectories import make_trajectory
from tsd.config import load_config
from tsd.config.devices import parse_counts, parse_wanted
from tsd.errors import CheckpointError, DiskError
from tsd.learn.checkpoint import COPIED_FILE, TrainState
from tsd.run.books import balance, forget_seat, lose_seat, lost_ids, note_seat, seats_left
from tsd.run.cluster import Needs, check_cluster, check_room
from tsd.run.mirror import PIECE_BYTES, Mirror, Piece, beats, pieces
from tsd.trainer.trainer import Trainer
from tsd.transport.spool import FRAMES_PER_FILE, Lane, appended


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A run directory on a node."""
    for name in ("logs", "alive"):
        (tmp_path / "node" / name).mkdir(parents=True)
    return tmp_path / "node"


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    (tmp_path / "run").mkdir()
    return Mirror(tmp_path / "run")


def drain(node: Path, mirror: Mirror) -> None:
    while found := pieces(node, mirror.have):
        mirror.take(found, beats(node))


def test_rows_come_whole_and_once_however_often_they_are_asked_for(node: Path, mirror: Mirror) -> None:
    (node / "metrics.jsonl").write_bytes(b"one\ntwo\nthr")
    found = pieces(node, mirror.have)
    mirror.take(found, {})
    mirror.take(found, {})  # an answer that came twice
    assert (mirror.run_dir / "metrics.jsonl").read_bytes() == b"one\ntwo\n"
    (node / "metrics.jsonl").write_bytes(b"one\ntwo\nthree\n")
    drain(node, mirror)
    assert (mirror.run_dir / "metrics.jsonl").read_bytes() == b"one\ntwo\nthree\n"


def test_a_line_that_a_killed_launcher_cut_short_spoils_no_other(node: Path, mirror: Mirror) -> None:
    (mirror.run_dir / "used.jsonl").write_bytes(b'{"update": 1, "ids')
    (node / "used.jsonl").write_bytes(b"whole\n")
    drain(node, mirror)
    assert (mirror.run_dir / "used.jsonl").read_bytes().splitlines()[1:] == [b"whole"]


def test_a_long_log_comes_in_pieces(node: Path, mirror: Mirror) -> None:
    log = bytes(range(256)) * (PIECE_BYTES // 100)
    (node / "logs" / "trainer-0.log").write_bytes(log)
    assert max(len(piece.data) for piece in pieces(node, {})) == PIECE_BYTES
    drain(node, mirror)
    assert (mirror.run_dir / "logs" / "trainer-0.log").read_bytes() == log


def test_a_whole_file_comes_when_it_changes(node: Path, mirror: Mirror) -> None:
    (node / "glance.json").write_text("1")
    drain(node, mirror)
    assert pieces(node, mirror.have) == []
    (node / "glance.json.partial").write_text("2")
    (node / "glance.json.partial").replace(node / "glance.json")
    drain(node, mirror)
    assert (mirror.run_dir / "glance.json").read_text() == "2"


def test_a_beat_on_a_node_is_a_beat_here(node: Path, mirror: Mirror) -> None:
    (node / "alive" / "generator-0").touch()
    mirror.take([], beats(node))
    here = mirror.run_dir / "alive" / "generator-0"
    first = here.stat().st_mtime_ns
    mirror.take([], beats(node))
    assert here.stat().st_mtime_ns == first, "it has not beaten again"


@pytest.mark.parametrize("name", ["../out", "/etc/out"])
def test_a_file_outside_of_the_run_directory_is_refused(mirror: Mirror, name: str) -> None:
    with pytest.raises(DiskError, match="outside of the run directory"):
        mirror.take([Piece(name, 1, b"x", is_whole=True)], {})


def test_what_each_sender_has_finished_is_told_without_reading_it(tmp_path: Path) -> None:
    assert appended(tmp_path) == {}
    lane = Lane(tmp_path, "0-a")
    for serial in range(FRAMES_PER_FILE + 3):
        lane.append(make_trajectory(serial, [3]))
    assert appended(tmp_path) == {"0-a": FRAMES_PER_FILE + 3}
    with lane._file(FRAMES_PER_FILE).open("ab") as file:
        file.write(b"half a fra")
    assert appended(tmp_path) == {"0-a": FRAMES_PER_FILE + 3}


def test_what_went_with_a_node_is_lost_by_id_and_no_more(tmp_path: Path) -> None:
    note_seat(tmp_path, "generator-1", {"1-a": 5, "1-b": 9})
    note_seat(tmp_path, "generator-2", {"2-a": 4})
    assert seats_left(tmp_path) == ["generator-1", "generator-2"]
    assert lose_seat(tmp_path, "generator-1", "node 10.0.0.7") == "1-a up to its number 4, 1-b up to its number 8"
    state = TrainState(num_trajectories=15, consumed={"1-a": 5, "1-b": 7, "2-a": 3})
    assert list(lost_ids(tmp_path, state)) == ["1-b-7", "1-b-8"]
    books = balance(tmp_path, state)
    assert (books.produced, books.in_flight, books.lost_with_node, books.lost) == (18, 1, 2, 0)
    assert "2 lost with their nodes" in books.describe()
    forget_seat(tmp_path, "generator-2")
    assert seats_left(tmp_path) == []


def test_a_trainer_that_goes_back_gives_back_what_was_used_and_it_counts_as_lost(tmp_path: Path) -> None:
    note_seat(tmp_path, "generator-1", {"1-a": 5})
    lose_seat(tmp_path, "generator-1", "node 10.0.0.7")
    used = TrainState(num_trajectories=5, consumed={"1-a": 5})
    back = TrainState(num_trajectories=2, consumed={"1-a": 2})
    assert [balance(tmp_path, state).lost_with_node for state in (used, back)] == [0, 3]
    assert [balance(tmp_path, state).lost for state in (used, back)] == [0, 0]


@pytest.mark.parametrize(
    ("spec", "gen", "train"),
    [
        ("2:gen,1:train", ("0", "1"), ("2",)),
        ("3x2:gen,2:train", ("0+1", "2+3", "4+5"), ("6", "7")),
        ("2xcpu:gen,cpu:train", ("cpu", "cpu"), ("cpu",)),
        ("cpu:gen,cpu:gen,cpu:train", ("cpu", "cpu"), ("cpu",)),
    ],
)
def test_counts_are_read(spec: str, gen: tuple[str, ...], train: tuple[str, ...]) -> None:
    placement = parse_counts(spec)
    assert (placement.gen, placement.train) == (gen, train)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("0-5:gen,1:train", "expected how many, found '0-5'"),
        ("0:gen,1:train", "expected how many"),
        ("2:gen", "no count has the role train"),
        ("2:gen,2x4:train", "a trainer has one GPU"),
        ("2:gen,2xcpu:gen,1:train", "expected gen of one kind"),
        ("2:gen,1:train,3", "expected :gen or :train"),
    ],
)
def test_counts_that_cannot_be_are_refused_with_an_example(spec: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refusal:
        parse_counts(spec)
    assert "for example 12:gen,4:train" in str(refusal.value)


def test_a_number_of_generators_is_read() -> None:
    assert parse_wanted("20:gen") == 20
    with pytest.raises(ValueError, match="trainers stay as they are"):
        parse_wanted("4:train")


def test_a_cluster_that_cannot_be_is_refused() -> None:
    for spec in ("locally", "local:0", "10.0.0.5"):
        with pytest.raises(ValueError, match="expected auto, an address"):
            check_cluster(spec)


def test_a_generator_over_two_gpus_needs_both_on_one_node() -> None:
    config = load_config(None, ["engine.kind=vllm"])
    placement = parse_counts("2x2:gen,1:train")
    check_room(config, placement, [Needs(8, 4), Needs(8, 1)])
    with pytest.raises(ValueError, match=r"there are 24 CPU\(s\) and 5 GPU\(s\) on 3 node.*no room for 1 x 2 GPU"):
        check_room(config, placement, [Needs(8, 3), Needs(8, 1), Needs(8, 1)])


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """One on a node, as far as checkpoints go."""
    (tmp_path / COPIED_FILE).touch()
    nobody: Any = None
    config = load_config(None, ["transport.timeout_s=5"])
    return Trainer(config, tmp_path, nobody, nobody, TrainState(), nobody, nobody, nobody, nobody)


async def test_a_checkpoint_on_a_node_counts_as_saved_once_the_launcher_has_a_copy(trainer: Trainer) -> None:
    now = time.monotonic()
    trainer.uncopied = [(f"update-{number}", now, {"0-a": 10 * number}) for number in (1, 2, 3)]
    await trainer.count_copied()
    assert trainer.saved == {}
    await asyncio.to_thread((trainer.run_dir / COPIED_FILE).write_text, "update-2")
    await trainer.count_copied()
    assert trainer.saved == {"0-a": 20}
    assert [name for name, _, _ in trainer.uncopied] == ["update-3"]


async def test_a_checkpoint_that_nobody_copies_ends_the_trainer_with_the_name_of_the_wait(trainer: Trainer) -> None:
    trainer.uncopied = [("update-1", time.monotonic() - 6, {})]
    with pytest.raises(CheckpointError, match=r"waits for the launcher to copy checkpoint update-1: not done in 5"):
        await trainer.count_copied()
