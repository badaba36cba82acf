"""Grows a tree by whichever of the two ways a configuration names."""

from typing import assert_never

from tsd.config import Config, IndexConfig, PuctConfig, kind
from tsd.search.by_index import search_by_index
from tsd.search.calibration import Calibration
from tsd.search.memory import Memory
from tsd.search.puct import search_by_puct
from tsd.search.tree import Tree
from tsd.types import Engine

Way = IndexConfig | PuctConfig


def way_of(config: Config) -> Way:
    """How [method] searches. Raises ValueError where it does not."""
    if not isinstance(config.method, Way):
        raise ValueError(f"method.kind: expected index or puct, which search, found {kind(config.method)}")
    return config.method


async def search(
    tree: Tree, engine: Engine, way: Way, calibration: Calibration | None = None, memory: Memory | None = None
) -> str:
    """Up to its budget; returns the reason for the end. `calibration` and `memory` are what search by index goes by."""
    match way:
        case IndexConfig():
            return await search_by_index(tree, engine, way, calibration or Calibration(), memory=memory)
        case PuctConfig():
            return await search_by_puct(tree, engine, way)
    assert_never(way)
