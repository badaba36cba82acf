"""The books of a run: what was produced is trained on, refused with a reason, or still in flight; nothing is lost.

Read from the last checkpoint and the spool alone; on a cluster, whose nodes have spools of their own, from what they
said they hold (`lanes/`), and from what went with those that were lost (`lost.jsonl`). Knows nothing about processes.
"""

import os
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from tsd.config.whole import write_whole
from tsd.learn.checkpoint import TrainState
from tsd.transport.spool import SPOOL, leftovers

USED_FILE = "used.jsonl"
"""A run's file with the ids of the trajectories of each update, where that is asked for."""
LOST_FILE = "lost.jsonl"
"""A run's file with a line for each seat of a cluster that was lost, and how much each sender had finished there."""
LANES = "lanes"
"""A folder of a run directory with a file for each seat of a cluster: how much each sender has finished there."""


class LostSeat(msgspec.Struct, frozen=True, kw_only=True):
    """A line of lost.jsonl."""

    seat: str
    why: str
    lanes: dict[str, int]
    """The serial that would have come next, of each sender."""


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all trajectories."""

    produced: int
    trained: int
    refused: dict[str, int]
    in_flight: int
    """Finished by a generator, and in no update of the surviving history yet."""
    lost_with_node: int = 0
    """Finished by a generator and used by no update that stands, when the node that they lay on was lost."""

    @property
    def lost(self) -> int:
        """What does not add up: 0, or there is a fault in tsd."""
        accounted = self.trained + sum(self.refused.values()) + self.in_flight + self.lost_with_node
        return self.produced - accounted

    def describe(self) -> str:
        """In one line."""
        refused = ", ".join(f"{count:,} {reason}" for reason, count in self.refused.items()) or "none"
        gone = f" + {self.lost_with_node:,} lost with their nodes" if self.lost_with_node else ""
        return (
            f"{self.produced:,} trajectories = {self.trained:,} trained + refused ({refused}) + {self.in_flight:,} in "
            f"flight + {self.lost:,} lost{gone}"
        )


def balance(run_dir: Path, state: TrainState) -> Books:
    """As they stand at that state, the run's last."""
    here = {lane.sender: lane.num_appended for lane in leftovers(run_dir / SPOOL, 0, 1)}
    gone = _gone(run_dir, state, here)
    num_gone = sum(map(len, gone.values()))
    finished = {**_there(run_dir), **here, **{sender: serials.stop for sender, serials in gone.items()}}
    produced = {
        sender: max(finished.get(sender, 0), state.consumed.get(sender, 0)) for sender in finished | state.consumed
    }
    return Books(
        produced=sum(produced.values()),
        trained=state.num_trajectories,
        refused=state.num_refused,
        in_flight=sum(produced.values()) - sum(state.consumed.values()) - num_gone,
        lost_with_node=num_gone,
    )


def lost_ids(run_dir: Path, state: TrainState) -> Iterator[str]:
    """Ids of the trajectories that went with the nodes they lay on: finished there, and used by no update up to that
    state."""
    here = {lane.sender for lane in leftovers(run_dir / SPOOL, 0, 1)}
    for sender, serials in sorted(_gone(run_dir, state, here).items()):
        yield from (f"{sender}-{serial}" for serial in serials)


def _gone(run_dir: Path, state: TrainState, here: Container[str]) -> dict[str, range]:
    """The serials behind `lost_ids`, of each sender that has any; senders whose spool is here have lost nothing."""
    serials = {sender: range(state.consumed.get(sender, 0), count) for sender, count in _lost(run_dir).items()}
    return {sender: some for sender, some in serials.items() if some and sender not in here}


def note_seat(run_dir: Path, seat: str, lanes: Mapping[str, int]) -> None:
    """What lies on a seat of a cluster now."""
    path = run_dir / LANES / f"{seat}.json"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, msgspec.json.encode(lanes))


def forget_seat(run_dir: Path, seat: str) -> None:
    """Nothing lies there any more: it has come back."""
    (run_dir / LANES / f"{seat}.json").unlink(missing_ok=True)


def seats_left(run_dir: Path) -> list[str]:
    """Those of which something is noted."""
    return sorted(path.stem for path in (run_dir / LANES).glob("*.json"))


def lose_seat(run_dir: Path, seat: str, why: str) -> str:
    """Counts what lay on a seat as lost with it. Which that is at most, for people: how many of whom."""
    lanes = _read_lanes(run_dir / LANES / f"{seat}.json")
    if lanes:
        with open(os.open(run_dir / LOST_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb") as file:
            file.write(msgspec.json.encode(LostSeat(seat=seat, why=why, lanes=lanes)) + b"\n")
    forget_seat(run_dir, seat)
    return ", ".join(f"{sender} up to its number {count - 1}" for sender, count in lanes.items() if count)


def _there(run_dir: Path) -> dict[str, int]:
    """What the nodes hold that are not lost, as far as they have said."""
    found: dict[str, int] = {}
    for path in (run_dir / LANES).glob("*.json"):
        found |= _read_lanes(path)
    return found


def _lost(run_dir: Path) -> dict[str, int]:
    """How much each sender had finished when the node was lost that it lay on."""
    found: dict[str, int] = {}
    path = run_dir / LOST_FILE
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(msgspec.DecodeError):  # one cut short by a kill: its seat is noted still
            for sender, count in msgspec.json.decode(line, type=LostSeat).lanes.items():
                found[sender] = max(found.get(sender, 0), count)
    return found


def _read_lanes(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}
