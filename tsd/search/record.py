"""A tree as data: to write as JSON, to compare, to resume, to look at, or to learn from. Knows nothing about files.

Nodes come parents first, so the list is a trie of the sampled tokens with what search and policy said of each.
"""

import hashlib
from collections.abc import Callable, Sequence
from weakref import ref

import msgspec
from msgspec.structs import replace

from tsd.search.node import Node, Status
from tsd.search.tree import Tree
from tsd.types import NO_PARENT, Grade, Step


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node."""

    parent: int
    """Its place in the list; NO_PARENT at the root."""
    step: Step | None = None
    """Its own step as it was sampled; none at the root."""
    text: str = ""
    """The step's."""
    born: int = 0
    """Expansions of the tree before the one that made it: the order of growth."""
    status: Status = Status.OPEN
    grade: Grade | None = None
    prior: float = 1.0
    num_drawn: int = 1
    visits: int = 0
    value_sum: float = 0.0
    q: float = 0.0
    value: float | None = None


class TreeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A whole tree at rest."""

    prompt: tuple[int, ...]
    nodes: tuple[NodeRecord, ...]
    num_simulations: int
    num_expansions: int
    num_generated: int
    solved: bool
    prompt_text: str = ""


def record(tree: Tree, decode: Callable[[Sequence[int]], str] = lambda tokens: "") -> TreeRecord:
    """The tree as data; `decode` adds each step's text."""
    place = {node: i for i, node in enumerate(tree.root.walk())}
    return TreeRecord(
        prompt=tree.prompt,
        prompt_text=decode(tree.prompt),
        nodes=tuple(_node_record(node, place, decode) for node in place),
        num_simulations=tree.num_simulations,
        num_expansions=tree.num_expansions,
        num_generated=tree.num_generated,
        solved=tree.solved,
    )


def _node_record(node: Node, place: dict[Node, int], decode: Callable[[Sequence[int]], str]) -> NodeRecord:
    step = node.step
    return NodeRecord(
        parent=NO_PARENT if node.parent is None else place[node.parent],
        step=step and replace(step, logprobs=tuple(step.logprobs), values=tuple(step.values)),
        text=decode(step.tokens) if step else "",
        born=node.born,
        status=node.status,
        grade=node.grade,
        prior=node.prior,
        num_drawn=node.num_drawn,
        visits=node.visits,
        value_sum=node.value_sum,
        q=node.q,
        value=node.value,
    )


def resume(saved: TreeRecord, tree: Tree) -> Tree:
    """The saved tree in a new one's place, with that one's callbacks, limits and budget; what it has had counts.

    Raises ValueError for a list of nodes that is no tree.
    """
    assert tree.num_nodes == 1, "a tree that has not grown yet"
    nodes: list[Node] = []
    for i, saved_node in enumerate(saved.nodes):
        if (saved_node.parent == NO_PARENT) != (i == 0) or saved_node.parent >= i or saved_node.parent < NO_PARENT:
            raise ValueError(f"node {i} names {saved_node.parent} as its parent; expected a node before it")
        if (saved_node.step is None) != (i == 0):
            raise ValueError(f"node {i}: expected a step in every node but the first")
        nodes.append(_node(saved_node, nodes, tree.root))
    for node in nodes:
        node.closed = node.status is not Status.OPEN
    tree.num_nodes, tree.num_simulations = len(nodes), saved.num_simulations
    tree.num_expansions, tree.num_generated = saved.num_expansions, saved.num_generated
    tree.num_solutions = sum(one.grade.exact for one in nodes if one.grade)
    return tree


def _node(saved: NodeRecord, nodes: Sequence[Node], root: Node) -> Node:
    """A node with what was saved of it, hung below its parent."""
    if saved.step is None:
        node = root
    else:
        parent = nodes[saved.parent]
        node = Node(ref(parent), saved.step, saved.prior, depth=parent.depth + 1, born=saved.born)
        node.num_path_tokens = parent.num_path_tokens + len(saved.step.tokens)
        parent.made = [*parent.made, node]
    for name in ("status", "grade", "num_drawn", "visits", "value_sum", "value"):
        setattr(node, name, getattr(saved, name))
    node.passed = saved.visits
    node.mean = saved.value_sum / saved.visits if saved.visits else saved.q
    return node


def tree_hash(tree: Tree) -> str:
    """A digest of every step, visit, value and status: equal for equal trees, on any machine."""
    digest = hashlib.blake2b(digest_size=8)
    for node in tree.root.walk():
        tokens = node.step.tokens if node.step else ()
        seen = (node.depth, tokens, node.visits, round(node.value_sum, 6), round(node.prior, 6), node.status.value)
        digest.update(repr(seen).encode())
    return digest.hexdigest()
