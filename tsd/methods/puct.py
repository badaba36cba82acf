"""The published method: stepwise pUCT; of each tree the most visited path, every token of it by A = R - V(s_t)."""

from collections.abc import Sequence
from dataclasses import dataclass

from tsd.config import PuctConfig
from tsd.methods.targets import Targets, against_value
from tsd.search import Tree, most_visited, search_by_puct
from tsd.types import Engine, Trajectory


@dataclass(frozen=True, slots=True)
class Puct:
    """A `Method`."""

    config: PuctConfig

    async def collect(self, tree: Tree, engine: Engine) -> list[Trajectory]:
        await search_by_puct(tree, engine, self.config)
        return [await most_visited(tree, engine)]

    def targets(self, group: Sequence[Trajectory]) -> list[Targets]:
        return [against_value(trajectory) for trajectory in group]
