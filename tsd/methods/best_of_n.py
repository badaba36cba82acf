"""The best of many samples, without search: learned from as a searched path is, every token by A = R - V(s_t)."""

from collections.abc import Sequence
from dataclasses import dataclass

from tsd.config import BestOfConfig
from tsd.methods.groups import sample_paths
from tsd.methods.targets import Targets, against_value
from tsd.search import Tree
from tsd.types import Engine, Trajectory


@dataclass(frozen=True, slots=True)
class BestOfN:
    """A `Method`."""

    config: BestOfConfig

    async def collect(self, tree: Tree, engine: Engine) -> list[Trajectory]:
        """The best sample; the likeliest under the policy where several are equally good."""
        paths = await sample_paths(tree, engine, self.config.num_samples)
        return [max(paths, key=lambda path: (path.grade.reward, float(path.logprobs.sum())))]

    def targets(self, group: Sequence[Trajectory]) -> list[Targets]:
        return [against_value(trajectory) for trajectory in group]
