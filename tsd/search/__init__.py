"""Monte Carlo tree search over reasoning steps. Pure Python: no torch, no vllm, no zmq.

tree = Tree(prompt_tokens, grade, config)
await grow(tree, engine)
path = (await harvest(tree, engine, HarvestConfig(), rng))[0]
"""

from tsd.search.grow import grow
from tsd.search.harvest import Path, harvest
from tsd.search.tree import Node, Tree, tree_hash

__all__ = ["Node", "Path", "Tree", "grow", "harvest", "tree_hash"]
