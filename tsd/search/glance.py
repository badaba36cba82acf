"""A growing tree at a glance: the path most visited, and beside each of its steps the best of the others.

For people who watch a search. Reads a tree and changes nothing.
"""

from collections.abc import Callable, Sequence

from tsd.search.node import Node
from tsd.search.tree import Tree
from tsd.types import Glance, GlanceStep

NUM_OTHERS = 2
"""Siblings shown beside a step of the path."""


def glance(tree: Tree, decode: Callable[[Sequence[int]], str]) -> Glance:
    """`decode` turns tokens into text."""
    steps, node = list[GlanceStep](), tree.root
    while seen := sorted((child for child in node.made if child.passed), key=lambda child: -child.passed):
        best, *others = seen
        steps += [_step(child, decode, on_path=False) for child in others[:NUM_OTHERS]]
        steps.append(_step(best, decode, on_path=True))
        node = best
    return Glance(
        prompt=decode(tree.prompt),
        num_simulations=tree.num_simulations,
        max_simulations=tree.budget.simulations,
        num_generated=tree.num_generated,
        max_tokens=tree.budget.max_tokens,
        num_nodes=tree.num_nodes,
        solved=tree.solved,
        steps=tuple(steps),
    )


def _step(node: Node, decode: Callable[[Sequence[int]], str], on_path: bool) -> GlanceStep:
    assert node.step is not None, "the root is no step"
    solved = node.grade is not None and node.grade.exact
    return GlanceStep(node.depth, decode(node.step.tokens), node.passed, node.q, on_path, solved)
