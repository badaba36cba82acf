"""Whether a run kept its promises, from its files alone: each trajectory used once, each weight the trainer's.

Knows nothing about what happened to the run.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec

from tsd.errors import CheckpointError
from tsd.learn.checkpoint import TrainState, checkpoints_dir, latest_checkpoint, load_state
from tsd.observe.metrics import MetricsReader, MetricsRow, PhaseRow, ProcessRow, UpdateRow, WeightsRow
from tsd.run.books import USED_FILE, Books, balance

GENERATOR = "generator-"


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to. Everything below `num_restarts` should be 0 or empty."""

    seed: int
    seconds: float
    faults: dict[str, int]
    """Injected, by kind."""
    books: Books
    num_updates: int
    num_syncs: int
    """Weights applied by generators."""
    num_restarts: int
    """Times that the launcher started a generator or trainer again."""
    back_s: float | None
    """Median, from a generator's death until an update learns from its next life; None where none died."""
    updates_meanwhile: float | None
    """Median of the updates made from the others in that time."""
    num_lost: int
    num_used_twice: int
    num_wrong_weights: int
    num_unconfirmed_weights: int = 0
    """Weights applied that nobody can compare with the trainer's: its last rows were lost with its node."""
    num_hangs: int
    leftovers: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        wrong = (self.num_lost, self.num_used_twice, self.num_wrong_weights, self.num_hangs)
        return not any(wrong) and not self.leftovers


class _Used(msgspec.Struct):
    update: int
    ids: list[str]


def audit(
    run_dir: Path, *, seed: int, seconds: float, faults: dict[str, int], num_hangs: int, leftovers: tuple[str, ...]
) -> Audit:
    """Audits a stopped run with `observe.trajectories`. Raises CheckpointError where there is none to load."""
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        raise CheckpointError(f"{run_dir} has no checkpoint")
    state, rows = load_state(checkpoint), MetricsReader(run_dir).read()
    books, times_used = balance(run_dir, state), Counter(used(run_dir, state))
    num_syncs, num_wrong, num_unconfirmed = _weights(rows)
    returned = comebacks(run_dir, rows)
    partial = [str(path) for path in checkpoints_dir(run_dir).glob("*.partial")]
    return Audit(
        seed=seed,
        seconds=round(seconds, 1),
        faults=faults,
        books=books,
        num_updates=state.update,
        num_syncs=num_syncs,
        num_restarts=num_restarts(rows),
        back_s=round(median(seconds for seconds, _ in returned), 2) if returned else None,
        updates_meanwhile=median(count for _, count in returned) if returned else None,
        num_lost=abs(books.lost) + abs(len(times_used) - state.num_trajectories),
        num_used_twice=sum(count > 1 for count in times_used.values()),
        num_wrong_weights=num_wrong,
        num_unconfirmed_weights=num_unconfirmed,
        num_hangs=num_hangs,
        leftovers=(*leftovers, *partial),
    )


def _weights(rows: Sequence[MetricsRow]) -> tuple[int, int, int]:
    """How many weights generators applied; how many of them are not the trainer's; how many nobody can tell of.

    Of those a trainer's life published last nothing may be known, if its node was lost, or the launcher was killed. All
    generators must have had the same then, and there are no more such lives than were lost.
    """
    weights = [row for row in rows if isinstance(row, WeightsRow)]
    published = {(row.version, row.checksum) for row in weights if row.source == "trainer-0"}
    numbers = {(row.life, row.version) for row in weights if row.source == "trainer-0"}
    applied = [row for row in weights if row.source != "trainer-0"]
    unknown = [row for row in applied if (row.version, row.checksum) not in published]
    untold = [row for row in unknown if (row.life, row.version) not in numbers]
    seen: dict[tuple[str, int], set[int]] = {}
    for row in untold:
        seen.setdefault((row.life, row.version), set()).add(row.checksum)
    num_lives, num_wrong = len({row.life for row in untold}), len(unknown) - len(untold)
    if num_lives > num_lives_lost(rows) or any(len(sums) > 1 for sums in seen.values()):
        num_wrong += len(untold)
    return len(applied), num_wrong, len(untold)


def num_lives_lost(rows: Sequence[MetricsRow]) -> int:
    """Lives of the trainer on a cluster whose last rows may be lost with them."""
    lost = [row.process for row in rows if isinstance(row, ProcessRow) and row.what == "lost"]
    on_node = lost.count("trainer-0")
    phases = [row.phase for row in rows if isinstance(row, PhaseRow)]
    killed = sum(
        phase == "launched" and before not in ("done", "failed", "stopping") for before, phase in pairwise(phases)
    )
    return on_node + killed if lost else 0


def num_restarts(rows: Sequence[MetricsRow]) -> int:
    """Times that the launcher started a generator or trainer again."""
    return sum(isinstance(row, ProcessRow) and row.what == "restarted" for row in rows)


def used(run_dir: Path, state: TrainState) -> list[str]:
    """Ids in the surviving history: an update made again after a restart counts as it was made last."""
    history = {one.update: one.ids for one in _updates(run_dir)}
    return [name for update, ids in history.items() if update <= state.update for name in ids]


def comebacks(run_dir: Path, rows: Sequence[MetricsRow]) -> list[tuple[float, int]]:
    """Seconds until an update used what a dead generator's next life made, and updates till then, for each death."""
    made = [(row.time_s, row.update) for row in rows if isinstance(row, UpdateRow)]
    used_by = {one.update: {name.rpartition("-")[0] for name in one.ids} for one in _updates(run_dir)}
    found = []
    for row in rows:
        if not isinstance(row, ProcessRow) or row.what != "restarted" or not row.process.startswith(GENERATOR):
            continue
        own = f"{row.process.removeprefix(GENERATOR)}-"
        before = {life for time_s, update in made if time_s < row.time_s for life in used_by.get(update, ())}
        later = [(time_s, update) for time_s, update in made if time_s > row.time_s]
        for count, (time_s, update) in enumerate(later):
            if any(life.startswith(own) and life not in before for life in used_by.get(update, ())):
                found.append((time_s - row.time_s, count))
                break
    return found


def _updates(run_dir: Path) -> Iterator[_Used]:
    """In the order they were made."""
    for line in (run_dir / USED_FILE).read_bytes().splitlines():
        # One cut short by a kill is no update: it is made again.
        with suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=_Used)
