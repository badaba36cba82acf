"""Monte Carlo tree search over reasoning steps. Pure Python: no torch, no vllm, no zmq.

tree = Tree(prompt_tokens, grade, limits)
await search(tree, engine, way)
path = await best_rewarded(tree, engine)
"""

from tsd.search.by_index import search_by_index
from tsd.search.calibration import Calibration
from tsd.search.glance import glance
from tsd.search.harvest import best_rewarded, expected, lone, most_visited
from tsd.search.index import TrainingIndex
from tsd.search.memory import Memory
from tsd.search.node import Node, Status
from tsd.search.plant import plant
from tsd.search.puct import search_by_puct
from tsd.search.record import NodeRecord, TreeRecord, record, resume, tree_hash
from tsd.search.tree import NO_LIMIT, Budget, Tree
from tsd.search.ways import Way, search, way_of

__all__ = [
    "NO_LIMIT",
    "Budget",
    "Calibration",
    "Memory",
    "Node",
    "NodeRecord",
    "Status",
    "TrainingIndex",
    "Tree",
    "TreeRecord",
    "Way",
    "best_rewarded",
    "expected",
    "glance",
    "lone",
    "most_visited",
    "plant",
    "record",
    "resume",
    "search",
    "search_by_index",
    "search_by_puct",
    "tree_hash",
    "way_of",
]
