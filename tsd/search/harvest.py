"""Takes what is worth learning from out of a grown tree: single paths, or all of it. Knows nothing about the wire."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import assert_never

from tsd.config import HarvestConfig
from tsd.protocols import Engine
from tsd.search.node import WORST_REWARD, Node, Status
from tsd.search.tree import Tree
from tsd.types import FIRST, Grade, Step

EXPECTED = 100
"""Paths of the policy that visits are counted in, where they are expected ones."""
NO_END = Grade(reward=WORST_REWARD, exact=False, well_formed=False)
"""Of a tree in which no path came to its end."""


@dataclass(frozen=True, slots=True)
class Trie:
    """Steps, parents first, each with what search says of it. A path is a trie of one branch.

    All but `grade` have the same length.
    """

    steps: tuple[Step, ...]
    parents: tuple[int, ...]
    """The place of the step that each one follows; FIRST where that is the prompt."""
    visits: tuple[int, ...]
    q: tuple[float, ...]
    """Of the state after the step: Q, or of an end its reward."""
    rewards: tuple[float, ...]
    """Mean reward of the ends that search found below; Q where it found none. Of a path, its own reward."""
    grade: Grade
    """Of the best end."""


def lone(step: Step, grade: Grade) -> Trie:
    """A whole response sampled in one step."""
    return Trie((step,), (FIRST,), (1,), (grade.reward,), (grade.reward,), grade)


async def harvest(tree: Tree, engine: Engine, config: HarvestConfig, rng: random.Random) -> list[Trie]:
    """The chosen path first, then up to `num_paths - 1` other finished ones, drawn evenly; no two are equal.

    With `whole_tree` one trie of the steps that search knows enough of. A chosen path that is not finished is finished
    by sampling the policy, then graded.
    """
    if tree.index is not None and config.whole_tree:
        return [expected(tree)]
    chosen = choose(tree, config)
    rest = await _finish(tree, engine, chosen)
    if config.whole_tree:
        return [_trie(_known(tree, chosen, config.min_visits), chosen, rest, _rewards(tree))]
    ends = [node for node in tree.root.walk() if node.status is Status.TERMINAL and node is not chosen]
    rng.shuffle(ends)
    return [_trie(chosen.path(), chosen, rest), *(_trie(end.path(), end) for end in ends[: config.num_paths - 1])]


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


async def _finish(tree: Tree, engine: Engine, node: Node) -> tuple[Step, Grade] | None:
    """What the policy writes from an unfinished node to the end, and its grade; None where the node is an end."""
    if node.grade is not None:
        return None
    (rest,) = await engine.sample(tree.state(node), 1, max(1, tree.room(node)))
    tree.num_generated += len(rest.tokens)
    return rest, tree.grade((*tree.response(node), *rest.tokens))


def expected(tree: Tree) -> Trie:
    """All steps of a tree that was searched without repeats, weighed by how often the policy would take them.

    What was found without replacement is no plain sample: a step's visits are what EXPECTED paths of the policy would
    make of it, and a state's Q is the mean over what is known below, by the policy's probability, and V for the rest.
    """
    nodes = list(tree.root.walk())
    mass: dict[Node, float] = {tree.root: 1.0}
    for node in nodes[1:]:
        assert node.step is not None
        assert node.parent is not None
        mass[node] = mass[node.parent] * math.exp(sum(node.step.logprobs))
    q: dict[Node, float] = {}
    for node in reversed(nodes):
        q[node] = _expected_q(node, q)
    place = {node: i for i, node in enumerate(nodes[1:])}
    found = tuple(q[node] for node in place)
    grades = [node.grade for node in place if node.grade] or [NO_END]
    return Trie(
        steps=tuple(node.step for node in place if node.step),
        parents=tuple(place.get(node.parent, FIRST) if node.parent else FIRST for node in place),
        visits=tuple(max(1, round(EXPECTED * mass[node])) for node in place),
        q=found,
        rewards=found,
        grade=max(grades, key=lambda grade: grade.reward),
    )


def _expected_q(node: Node, below: dict[Node, float]) -> float:
    """The reward of an end; else the mean over its children and, for what the policy would otherwise write, V."""
    if node.status is not Status.OPEN:
        return node.end_value
    own = node.value if node.step is None else node.step.values[-1]
    known, total = 0.0, 0.0
    for child in node.children:
        assert child.step is not None
        chance = math.exp(sum(child.step.logprobs))
        known += chance
        total += chance * below[child]
    return total + max(0.0, 1 - known) * (own or 0.0)


def _known(tree: Tree, chosen: Node, min_visits: int) -> list[Node]:
    """The steps from states visited so often, as far as search came to them or they are ends; and the chosen path."""
    kept = set(chosen.path())
    return [
        node
        for node in tree.root.walk()
        if (parent := node.parent) is not None
        and (node in kept or (parent.visits >= min_visits and (node.visits or node.status is not Status.OPEN)))
    ]


def _rewards(tree: Tree) -> dict[Node, float]:
    """Of each node with an end below it, the mean reward of those ends."""
    found: dict[Node, list[float]] = {}
    for node in tree.root.walk():
        if node.status is not Status.OPEN:
            for above in (tree.root, *node.path()):
                found.setdefault(above, []).append(node.end_value)
    return {node: sum(rewards) / len(rewards) for node, rewards in found.items()}


def _trie(
    nodes: Iterable[Node],
    chosen: Node,
    rest: tuple[Step, Grade] | None = None,
    rewards: dict[Node, float] | None = None,
) -> Trie:
    """Of nodes, parents first, and of what finishes the chosen one, if anything does.

    Without `rewards` the nodes are a path, and all of it gets the reward of its end.
    """
    place: dict[Node, int] = {node: i for i, node in enumerate(nodes)}
    steps = [node.step for node in place if node.step]
    parents = [place.get(parent, FIRST) if (parent := node.parent) else FIRST for node in place]
    visits = [node.visits for node in place]
    q = [node.q if node.status is Status.OPEN else node.end_value for node in place]
    grades = [node.grade for node in place if node.grade]
    if rest is not None:
        step, grade = rest
        grades.append(grade)
        steps.append(step)
        parents.append(place.get(chosen, FIRST))
        visits.append(1)
        q.append(grade.reward)
    best = max(grades, key=lambda grade: grade.reward)
    found = [best.reward] * len(steps)
    if rewards is not None:
        found = [rewards.get(node, one) for node, one in zip(place, q, strict=False)] + q[len(place) :]
    return Trie(tuple(steps), tuple(parents), tuple(visits), tuple(q), tuple(found), best)
