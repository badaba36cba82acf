"""What a response is worth in training: several rewards, each in [-1, 1], mixed by their weights.

Five are built in; others come from any package that registers a `tsd.types.Reward` under the entry-point group
`tsd.rewards`. Evaluation does not pass through here. Knows nothing about search, or how a task comes to its own grade.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint

import msgspec

from tsd.config import Config, RewardConfig
from tsd.errors import TaskError
from tsd.model.files import hub_name, model_path
from tsd.tasks.limit import Overdue, limited
from tsd.tasks.outside import offered, place
from tsd.types import Grade, Grader, Problem, Reward, Task

GROUP = "tsd.rewards"
WORST, BEST = -1.0, 1.0


def built_in(max_path_tokens: int) -> dict[str, Reward]:
    """Nothing registered takes their names. `model` is a generator's to load."""
    return {
        "task": lambda problem, response, num_tokens, grade: grade.reward,
        "exact": lambda problem, response, num_tokens, grade: BEST if grade.exact else WORST,
        "format": lambda problem, response, num_tokens, grade: BEST if grade.well_formed else WORST,
        "length": lambda problem, response, num_tokens, grade: -min(1.0, num_tokens / max_path_tokens),
        "model": lambda problem, response, num_tokens, grade: WORST,
    }


@dataclass(frozen=True, slots=True)
class Mix:
    """The `Grader` that mixes: the task's grade with another reward, the weighted mean, and every part beside it."""

    task: Task
    rewards: Mapping[str, Reward]
    weights: Mapping[str, float]
    report: Callable[[str], None]
    """Told of the first failure of each reward."""
    limit_s: float
    """A reward that takes longer ends the run."""
    failed: set[str] = field(default_factory=set)

    def __call__(self, problem: Problem, response: str, num_tokens: int, /) -> Grade:
        own = self.task.grade(problem, response)
        parts = {name: self._part(name, problem, response, num_tokens, own) for name in self.weights}
        total = sum(self.weights[name] * part for name, part in parts.items())
        return msgspec.structs.replace(own, reward=_clipped(total / sum(map(abs, self.weights.values()))), parts=parts)

    def _part(self, name: str, problem: Problem, response: str, num_tokens: int, grade: Grade) -> float:
        """One reward. Whatever somebody else's code raises, the run goes on; where it hangs, it ends."""
        try:
            with limited(self.limit_s):
                worth = float(self.rewards[name](problem, response, num_tokens, grade))
            if not math.isfinite(worth):
                raise ValueError(f"expected a finite number, found {worth}")
        except Exception as error:  # noqa: BLE001
            if name not in self.failed:
                self.failed.add(name)
                self.report(f"reward {name} failed on {problem.id} and counts as {WORST}: {error!r}")
            return WORST
        except Overdue as error:
            raise TaskError(f"reward {name}: {error!r}{place(error)}; the problem: {problem.id}") from error
        return _clipped(worth)


def make_grader(
    task: Task,
    config: Config,
    report: Callable[[str], None],
    registered: Iterable[EntryPoint] | None = None,
    model: Reward | None = None,
) -> Grader | None:
    """None where the task's own grade is all that counts; `model` is what `reward.model` names.

    Raises ValueError for what cannot be, as `load_rewards`.
    """
    if config.reward == RewardConfig():
        return None
    rewards = load_rewards(config, registered)
    if model is not None:
        rewards |= {"model": model}
    return Mix(task, rewards, config.reward.weights, report, config.task.grade_timeout_s)


def load_rewards(config: Config, registered: Iterable[EntryPoint] | None = None) -> dict[str, Reward]:
    """The rewards that have a weight; `registered` is what packages offer, where that is not to be looked up.

    Raises ValueError for a name nobody has, for one that cannot be loaded, and for a reward model that is not there.
    """
    if config.reward.model and not hub_name(config.reward.model):
        model_path(config.reward.model, "reward.model")
    rewards, weights = built_in(config.search.max_path_tokens), config.reward.weights
    if weights.keys() <= rewards.keys():
        return rewards
    found = offered(GROUP, registered)
    for name in sorted(weights.keys() - rewards.keys()):
        if name not in found:
            known = ", ".join(sorted({*built_in(1), *found}))
            raise ValueError(f"reward.weights: expected names out of {known}, found {name!r}; see tsd.types.Reward")
        rewards[name] = _load(found[name])
    return rewards


def _load(point: EntryPoint) -> Reward:
    try:
        reward: Reward = point.load()
    except Exception as error:
        raise ValueError(f"reward.weights: {point.name!r} cannot be loaded from {point.value}: {error!r}") from error
    if not callable(reward):
        raise ValueError(f"reward.weights: expected {point.value} to be callable, found {type(reward).__name__}")
    return reward


def _clipped(worth: float) -> float:
    return max(WORST, min(BEST, worth))
