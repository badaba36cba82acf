"""Groups of samples, without search: every sample is compared with the others of its problem.

A = (R - mean) / (std + 1e-4) over a group, the same for all tokens of a sample (GRPO: Shao et al., 2024). With the loss
`cispo` it is the baseline that search has to beat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsd.config import GroupsConfig
from tsd.methods.targets import Array, Targets, path_targets
from tsd.search import NO_LIMIT, Budget, Tree, lone
from tsd.types import Engine, Trajectory

MIN_STD = 1e-6


@dataclass(frozen=True, slots=True)
class Groups:
    """A `Method`."""

    config: GroupsConfig

    async def collect(self, tree: Tree, engine: Engine) -> list[Trajectory]:
        """All at once where nothing but its size ends a group; else one after another, until a budget is spent."""
        num_samples = self.config.num_samples
        tree.budget = Budget(max_tokens=self.config.max_tokens, solutions=self.config.solutions)
        if tree.budget == NO_LIMIT:
            return await sample_paths(tree, engine, num_samples)
        paths: list[Trajectory] = []
        while len(paths) < num_samples and tree.stop_reason() is None:
            paths += await sample_paths(tree, engine, 1)
        return paths

    def targets(self, group: Sequence[Trajectory]) -> list[Targets]:
        advantages = group_advantages(np.array([one.grade.reward for one in group], np.float32))
        return [
            path_targets(one, np.full(len(one.tokens), advantage))
            for one, advantage in zip(group, advantages, strict=True)
        ]


async def sample_paths(tree: Tree, engine: Engine, num_samples: int) -> list[Trajectory]:
    """Whole responses from a tree's root, graded, and counted in the tree."""
    steps = await engine.sample(tree.prompt, num_samples, tree.limits.max_path_tokens)
    paths = [lone(tree, step, tree.grade(step.tokens)) for step in steps]
    tree.num_generated += sum(len(step.tokens) for step in steps)
    tree.num_solutions += sum(path.grade.exact for path in paths)
    return paths


def group_advantages(rewards: Array) -> Array:
    """float32 [num_members], with the sample's standard deviation; 0 where all are equal."""
    std = rewards.std(ddof=1) if len(rewards) > 1 else 0.0
    if std <= MIN_STD:
        return np.zeros(len(rewards), np.float32)
    return np.asarray((rewards - rewards.mean()) / (std + 1e-4), np.float32)
