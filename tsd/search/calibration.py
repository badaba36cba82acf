"""What V is worth: how often a state of so much V was solved from, and how many tokens its paths still took.

Counts, learned from paths that were samples of the policy and were run to their end, whatever V said on the way; old
paths fade as the policy moves. Knows nothing about trees: a path is V and tokens left after each of its steps.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tsd.config.whole import write_whole

FILE = "calibration.json"
"""In a model's directory."""
RUNNING = "calibration-{}.json"
"""In a run's directory: what its generator of that number goes by, as of its last weights."""

DEEPEST = 5
"""States of this depth and deeper are counted as one."""
ENOUGH_PATHS = 50.0
BINS = 10
"""Bins of V in a unit."""
NEIGHBOURS = ((0, 1.0), (-1, 0.5), (1, 0.5))
"""Bins that a state is judged by, and with what weight."""
KEPT_OF_STATES, KEPT_OF_PATHS = 0.995, 0.999
"""What is left of the old counts when a path is added to a bin, and to the whole."""


class Counts(msgspec.Struct):
    """Counts of paths that came by; all of them fade, so they are no whole numbers."""

    num_paths: float = 0.0
    num_solved: float = 0.0
    num_tokens: float = 0.0
    """Generated after that."""

    def add(self, solved: bool, num_tokens: float, kept: float) -> None:
        self.num_paths = self.num_paths * kept + 1
        self.num_solved = self.num_solved * kept + solved
        self.num_tokens = self.num_tokens * kept + num_tokens


class Sight(msgspec.Struct):
    """How well V foretold the rewards of paths that came by: faded sums over them."""

    num_paths: float = 0.0
    rewards: float = 0.0
    reward_squares: float = 0.0
    errors: float = 0.0
    error_squares: float = 0.0

    def add(self, reward: float, value: float, kept: float) -> None:
        self.num_paths = self.num_paths * kept + 1
        self.rewards = self.rewards * kept + reward
        self.reward_squares = self.reward_squares * kept + reward**2
        self.errors = self.errors * kept + reward - value
        self.error_squares = self.error_squares * kept + (reward - value) ** 2

    @property
    def explained(self) -> float:
        """1 - Var(R - V) / Var(R): the share of the rewards' variance that V explains; 0 where all are equal."""
        variance = self.reward_squares / self.num_paths - (self.rewards / self.num_paths) ** 2
        left = self.error_squares / self.num_paths - (self.errors / self.num_paths) ** 2
        return 1 - left / variance if variance > 1e-9 else 0.0


class Calibration(msgspec.Struct):
    """The default is what is believed of a model that nobody has looked at: one path in ten is right, V is no sign."""

    paths: Counts = msgspec.field(default_factory=lambda: Counts(2.0, 0.2, 100.0))
    """Whole paths, from the prompt."""
    strength: float = 1.0
    """How many failed paths it takes to halve the hope for a problem: a + b of the Beta distribution that the problems'
    own solve rates have."""
    states: dict[str, Counts] = {}
    """By depth and bin of V."""
    sight: list[Sight] = []
    """After each step, the first one first, as deep as DEEPEST."""

    @property
    def explained(self) -> tuple[float, ...]:
        """What V explains of the rewards, after each step; of steps that enough paths have come to."""
        return tuple(sight.explained for sight in self.sight if sight.num_paths >= ENOUGH_PATHS)

    @property
    def solve_rate(self) -> float:
        """The chance that a path from the prompt solves."""
        return self.paths.num_solved / self.paths.num_paths

    @property
    def path_tokens(self) -> float:
        """Tokens of a path from the prompt, on average."""
        return self.paths.num_tokens / self.paths.num_paths

    def hope(self, num_failed: float) -> float:
        """What is left of a new problem's chance after so many failed paths: the Beta posterior's mean, as a share."""
        return self.strength / (self.strength + num_failed)

    def judge(self, depth: int, value: float) -> tuple[float, float]:
        """The chance that a path from a state is right, and the tokens that it will still take.

        From the bins around V; a bin that holds little is judged by the whole, which counts as one path more.
        """
        num_paths, num_solved, num_tokens = 1.0, self.solve_rate, self.path_tokens
        centre = round(value * BINS)
        for offset, weight in NEIGHBOURS:
            counts = self.states.get(_key(depth, centre + offset))
            if counts is not None:
                num_paths += weight * counts.num_paths
                num_solved += weight * counts.num_solved
                num_tokens += weight * counts.num_tokens
        return num_solved / num_paths, num_tokens / num_paths

    def add(
        self, values: Sequence[float], lengths: Sequence[int], reward: float, solved: bool, *, fades: bool = True
    ) -> None:
        """A path that was run to its end: V after each of its steps, and the tokens of each; what it came to.

        Older paths fade for it, unless they are all of one policy.
        """
        left, kept = sum(lengths), KEPT_OF_PATHS if fades else 1.0
        self.paths.add(solved, left, kept)
        for depth, (value, length) in enumerate(zip(values, lengths, strict=True), start=1):
            left -= length
            if left:  # after the last step there is no state to be judged
                counts = self.states.setdefault(_key(depth, round(value * BINS)), Counts())
                counts.add(solved, left, KEPT_OF_STATES if fades else 1.0)
                self._see(depth, reward, value, kept)

    def _see(self, depth: int, reward: float, value: float, kept: float) -> None:
        if depth <= DEEPEST:
            self.sight += [Sight() for _ in range(depth - len(self.sight))]
            self.sight[depth - 1].add(reward, value, kept)

    def fade(self, num_paths: float) -> None:
        """What it knows counts as at most so many paths from here on: the policy is about to move."""
        kept = min(1.0, num_paths / self.paths.num_paths)
        for counts in (self.paths, *self.states.values()):
            counts.num_paths *= kept
            counts.num_solved *= kept
            counts.num_tokens *= kept


def _key(depth: int, centre: int) -> str:
    return f"{min(depth, DEEPEST)} {centre}"


def strength_of(num_solved: Sequence[int], num_samples: int) -> float:
    """a + b of the Beta distribution of problems' solve rates, by its moments, from samples of each problem."""
    rates = [count / num_samples for count in num_solved]
    mean = sum(rates) / len(rates)
    spread = sum((rate - mean) ** 2 for rate in rates) / len(rates)
    between = spread - mean * (1 - mean) / num_samples  # less what samples of one and the same rate would spread
    return max(0.5, mean * (1 - mean) / max(between, 1e-6) - 1)


def load_calibration(directory: Path | None) -> Calibration:
    """A model directory's; what is believed of any model where there is none. Raises ValueError for a damaged file."""
    path = directory / FILE if directory else None
    if path is None or not path.is_file():
        return Calibration()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no calibration: {error}; delete it, and `tsd calibrate` makes another") from None


def save_calibration(calibration: Calibration, path: Path) -> None:
    """As a whole, or not at all."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")


def keep_newest(run_dir: Path, checkpoint: Path) -> None:
    """A checkpoint gets the calibration that one of the run's generators wrote last, where search goes by one."""
    written = sorted(run_dir.glob(RUNNING.format("*")), key=lambda path: path.stat().st_mtime_ns)
    if written:
        shutil.copyfile(written[-1], checkpoint / FILE)
