"""The main job's method: search by index, and all that the tree says learned from as the policy's own expectation.

reward    an end's is the task's, in [-1, 1]
Q         of a state: the mean of what is known below it, by the policy's probability, and V for what is not
N         of a step: how many of 100 paths of the policy would take it, at least 1
A         of a step: (Q - Q of the state it starts from) + (Q - Q of the prompt), times N
          (TreeRL's local and global advantage: Hou et al., 2025), over the root mean square of a tree's
V         should be Q of the state a step starts from before its first token, and of the state after it before others
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsd.config import IndexConfig
from tsd.methods.targets import Array, Targets
from tsd.search import Calibration, Memory, TrainingIndex, Tree, expected, search_by_index
from tsd.types import NO_PARENT, Engine, Trajectory

MIN_SCALE = 0.05
"""Added to what a tree's advantages are divided by, so that a tree whose steps are all alike stays so."""


@dataclass(frozen=True, slots=True)
class ByIndex:
    """A `Method`; its trees teach `calibration` while the policy moves."""

    config: IndexConfig
    calibration: Calibration
    memory: Memory | None = None

    async def collect(self, tree: Tree, engine: Engine) -> list[Trajectory]:
        await search_by_index(tree, engine, self.config, self.calibration, rule=TrainingIndex, memory=self.memory)
        return [expected(tree)]

    def targets(self, group: Sequence[Trajectory]) -> list[Targets]:
        return [self._targets(trajectory) for trajectory in group]

    def _targets(self, trajectory: Trajectory) -> Targets:
        found = tree_targets(trajectory)
        if self.config.learn_from == "all" or trajectory.grade.exact:
            return found
        return Targets(found.returns, np.zeros_like(found.advantages))


def tree_targets(trajectory: Trajectory) -> Targets:
    """A whole tree's targets."""
    lengths, parents = trajectory.lengths, trajectory.parents
    step_of = np.repeat(np.arange(len(lengths)), lengths)  # [num_tokens]
    q = with_prompt(trajectory)  # [num_steps + 1]
    returns = q[step_of]
    returns[np.cumsum(lengths) - lengths] = q[parents]
    advantages = tree_advantages(q, parents, trajectory.visits)[step_of]
    return Targets(returns, advantages / (np.sqrt((advantages**2).mean()) + np.float32(MIN_SCALE)))


def with_prompt(trajectory: Trajectory) -> Array:
    """float32 [num_steps + 1]: Q of the state after each step, and last of the prompt, where NO_PARENT finds it.

    The prompt's is the mean over the steps that follow it, by visits.
    """
    top = trajectory.parents == NO_PARENT
    prompt = np.average(trajectory.q[top], weights=np.maximum(1, trajectory.visits[top]))
    return np.append(trajectory.q, prompt).astype(np.float32)


def tree_advantages(q: Array, parents: Array, visits: Array) -> Array:
    """float32 [num_steps]: a step counts as often as paths come by it, as it would if they were separate samples."""
    own = q[:-1]
    return np.asarray((2 * own - q[parents] - q[-1]) * np.maximum(visits, 1), np.float32)
