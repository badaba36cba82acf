"""Monte Carlo tree search over reasoning steps. Pure Python: no torch, no vllm, no zmq.

tree = Tree(prompt_tokens, grade, config)
await grow(tree, engine)
best = (await harvest(tree, engine, HarvestConfig(whole_tree=False), rng))[0]
"""

from tsd.search.calibration import Calibration
from tsd.search.glance import glance
from tsd.search.grow import grow
from tsd.search.harvest import Trie, harvest
from tsd.search.node import Node, Status
from tsd.search.plant import plant
from tsd.search.record import NodeRecord, TreeRecord, record, resume, subtree, tree_hash
from tsd.search.sampled import sample_paths
from tsd.search.tree import Tree

__all__ = [
    "Calibration",
    "Node",
    "NodeRecord",
    "Status",
    "Tree",
    "TreeRecord",
    "Trie",
    "glance",
    "grow",
    "harvest",
    "plant",
    "record",
    "resume",
    "sample_paths",
    "subtree",
    "tree_hash",
]
