"""Takes the paths worth learning from out of a grown tree. Knows nothing about trajectories on the wire."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from tsd.config import HarvestConfig
from tsd.protocols import Engine
from tsd.search.node import Node, Status
from tsd.search.tree import Tree
from tsd.types import Grade, Step


@dataclass(frozen=True, slots=True)
class Path:
    """A finished, graded response, step by step."""

    steps: tuple[Step, ...]
    grade: Grade


async def harvest(tree: Tree, engine: Engine, config: HarvestConfig, rng: random.Random) -> list[Path]:
    """The chosen path first, then up to `num_paths - 1` other finished ones; no two are equal.

    A chosen path that is not finished is finished by sampling the policy, then graded.
    """
    chosen = choose(tree, config)
    paths = [await _finished(tree, engine, chosen)]
    ends = [node for node in tree.root.walk() if node.status is Status.TERMINAL and node is not chosen]
    rng.shuffle(ends)
    if config.others == "best":
        ends.sort(key=lambda node: -node.end_value)
    for node in ends[: config.num_paths - 1]:
        assert node.grade is not None, "terminal nodes are graded on creation"
        paths.append(Path(tuple(tree.steps(node)), node.grade))
    return paths


def choose(tree: Tree, config: HarvestConfig) -> Node:
    """The node whose path is sent first."""
    if config.choose == "visits":
        return _follow(tree.root, lambda child: (child.visits, child.q))
    if config.choose == "value":
        return _follow(tree.root, lambda child: (child.q if child.visits else -2.0, child.visits))
    if config.choose == "reward":
        ends = [node for node in tree.root.walk() if node.status is Status.TERMINAL]
        if not ends:
            return _follow(tree.root, lambda child: (child.visits, child.q))
        # Of equal rewards the likeliest path under the policy: nearest to what it would write by itself.
        return max(ends, key=lambda node: (node.end_value, _logprob(tree, node)))
    assert_never(config.choose)


def _follow(node: Node, key: Callable[[Node], tuple[float, float]]) -> Node:
    """From a node down the best children to a leaf that is not cut off, if there is one."""
    while node.children:
        alive = [child for child in node.children if child.status in (Status.OPEN, Status.TERMINAL)]
        if not alive:
            break
        node = max(alive, key=key)
    return node


def _logprob(tree: Tree, node: Node) -> float:
    return sum(logprob for step in tree.steps(node) for logprob in step.logprobs)


async def _finished(tree: Tree, engine: Engine, node: Node) -> Path:
    steps = tuple(tree.steps(node))
    if node.grade is not None:
        return Path(steps, node.grade)
    (rest,) = await engine.sample(tree.state(node), 1, max(1, tree.room(node)))
    tree.num_generated += len(rest.tokens)
    return Path((*steps, rest), tree.grade((*tree.response(node), *rest.tokens)))
