"""Methods: how a problem becomes trajectories, and what their tokens learn. One short file for each.

A generator asks for `collect`, the trainer for `targets`; both make the method from the run's configuration. A new one
is a file here, a configuration in `tsd.config.methods`, and a line below. Knows nothing about torch, models or sockets.
"""

from collections.abc import Sequence
from typing import Protocol, assert_never

from tsd.config import BestOfConfig, GroupsConfig, IndexConfig, MethodConfig, PuctConfig
from tsd.methods.best_of_n import BestOfN
from tsd.methods.groups import Groups
from tsd.methods.index import ByIndex
from tsd.methods.puct import Puct
from tsd.methods.targets import Targets
from tsd.search import Calibration, Memory, Tree
from tsd.types import Engine, Trajectory

__all__ = ["Method", "Targets", "make_method"]


class Method(Protocol):
    """Both halves of one."""

    async def collect(self, tree: Tree, engine: Engine) -> list[Trajectory]:
        """Searches a new tree with the policy, and says what of it is to be learned from: at least one."""
        ...

    def targets(self, group: Sequence[Trajectory]) -> list[Targets]:
        """What each of a group's trajectories learns; all that came of one tree, as far as one batch has them."""
        ...


def make_method(config: MethodConfig, calibration: Calibration | None = None, memory: Memory | None = None) -> Method:
    """The one that [method] names; `calibration` and `memory` are what search by index goes by, where it collects."""
    match config:
        case IndexConfig():
            return ByIndex(config, calibration or Calibration(), memory)
        case PuctConfig():
            return Puct(config)
        case GroupsConfig():
            return Groups(config)
        case BestOfConfig():
            return BestOfN(config)
    assert_never(config)
