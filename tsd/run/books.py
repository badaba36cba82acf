"""The books of a run: what was produced is trained on, refused with a reason, or still in flight; nothing is lost.

Read from the last checkpoint and the spool alone. Knows nothing about processes.
"""

from pathlib import Path

import msgspec

from tsd.learn.checkpoint import TrainState
from tsd.transport.spool import SPOOL, leftovers

USED_FILE = "used.jsonl"
"""A run's file with the ids of the trajectories of each update, where that is asked for."""


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all trajectories."""

    produced: int
    trained: int
    refused: dict[str, int]
    in_flight: int
    """Finished by a generator, and in no update of the surviving history yet."""

    @property
    def lost(self) -> int:
        """What does not add up: 0, or there is a fault in tsd."""
        return self.produced - self.trained - sum(self.refused.values()) - self.in_flight

    def describe(self) -> str:
        """In one line."""
        refused = ", ".join(f"{count:,} {reason}" for reason, count in self.refused.items()) or "none"
        return (
            f"{self.produced:,} trajectories = {self.trained:,} trained + refused ({refused}) + {self.in_flight:,} in "
            f"flight + {self.lost:,} lost"
        )


def balance(run_dir: Path, state: TrainState) -> Books:
    """As they stand at that state, the run's last."""
    appended = {lane.sender: lane.num_appended for lane in leftovers(run_dir / SPOOL, 0, 1)}
    produced = {
        sender: max(appended.get(sender, 0), state.consumed.get(sender, 0)) for sender in appended | state.consumed
    }
    return Books(
        produced=sum(produced.values()),
        trained=state.num_trajectories,
        refused=state.num_refused,
        in_flight=sum(produced.values()) - sum(state.consumed.values()),
    )
