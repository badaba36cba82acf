"""What a finished tree gives for training: one path, or all of it. Knows nothing about the wire."""

import math
from collections.abc import Sequence

import numpy as np

from tsd.search.node import WORST_REWARD, Node, Status
from tsd.search.tree import Tree
from tsd.types import NO_PARENT, Engine, Grade, Step, Trajectory

EXPECTED = 100
"""Paths of the policy that visits are counted in, where they are expected ones."""
NO_END = Grade(reward=WORST_REWARD, exact=False, well_formed=False)
"""The grade of a tree in which no path came to its end."""


def make_trajectory(
    tree: Tree, steps: Sequence[Step], parents: Sequence[int], visits: Sequence[int], q: Sequence[float], grade: Grade
) -> Trajectory:
    """Steps of a tree, parents first, and what search says of each. `grade` is of the best end."""
    return Trajectory(
        prompt=np.array(tree.prompt, np.int32),
        tokens=np.array([token for step in steps for token in step.tokens], np.int32),
        logprobs=np.array([logprob for step in steps for logprob in step.logprobs], np.float32),
        values=np.array([value for step in steps for value in step.values], np.float32),
        versions=np.array([step.version for step in steps for _ in step.tokens], np.int32),
        lengths=np.array([len(step.tokens) for step in steps], np.int32),
        parents=np.array(parents, np.int32),
        visits=np.array(visits, np.int32),
        q=np.array(q, np.float32),
        grade=grade,
        num_generated=tree.num_generated,
    )


def lone(tree: Tree, step: Step, grade: Grade) -> Trajectory:
    """A whole response sampled in one step."""
    return make_trajectory(tree, (step,), (NO_PARENT,), (1,), (grade.reward,), grade)


async def most_visited(tree: Tree, engine: Engine) -> Trajectory:
    """The path that the most visits went along, the published choice; finished by the policy where it has no end."""
    return await _finished(tree, engine, _most_visited_leaf(tree.root))


async def best_rewarded(tree: Tree, engine: Engine) -> Trajectory:
    """The path of the best end, of equals the likeliest under the policy; the most visited one where there is none."""
    ends = [node for node in tree.root.walk() if node.status is Status.TERMINAL]
    if not ends:
        return await most_visited(tree, engine)
    return _path(tree, max(ends, key=lambda node: (node.end_value, _logprob(tree, node))).path())


def _most_visited_leaf(node: Node) -> Node:
    """From a node down the most visited children, of equals those of best Q, to a leaf that is not cut off, if any."""
    while children := node.make_children():
        alive = [child for child in children if child.status is not Status.TRUNCATED]
        if not alive:
            break
        node = max(alive, key=lambda child: (child.visits, child.q))
    return node


def _logprob(tree: Tree, node: Node) -> float:
    return sum(logprob for step in tree.steps(node) for logprob in step.logprobs)


async def _finished(tree: Tree, engine: Engine, node: Node) -> Trajectory:
    """The path to a node, and what the policy writes from there to the end where it is none."""
    if node.grade is not None:
        return _path(tree, node.path())
    (rest,) = await engine.sample(tree.state(node), 1, max(1, tree.room(node)))
    tree.num_generated += len(rest.tokens)
    return _path(tree, node.path(), (rest, tree.grade((*tree.response(node), *rest.tokens))))


def _path(tree: Tree, nodes: Sequence[Node], rest: tuple[Step, Grade] | None = None) -> Trajectory:
    """The path along nodes, each the child of the one before, and along what finishes it, if anything does."""
    steps = [node.step for node in nodes if node.step is not None]
    visits, q = [node.visits for node in nodes], [node.q for node in nodes]
    grade = nodes[-1].grade if nodes else None
    if rest is not None:
        step, grade = rest
        steps.append(step)
        visits.append(1)
        q.append(grade.reward)
    assert grade is not None, "a path that has an end, or is given one"
    return make_trajectory(tree, steps, range(NO_PARENT, len(steps) + NO_PARENT), visits, q, grade)


def expected(tree: Tree) -> Trajectory:
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
    q = expected_values(tree)
    place = {node: i for i, node in enumerate(nodes[1:])}
    grades = [node.grade for node in place if node.grade] or [NO_END]
    return make_trajectory(
        tree,
        steps=[node.step for node in place if node.step],
        parents=[place.get(node.parent, NO_PARENT) if node.parent else NO_PARENT for node in place],
        visits=[max(1, round(EXPECTED * mass[node])) for node in place],
        q=[q[node] for node in place],
        grade=max(grades, key=lambda grade: grade.reward),
    )


def expected_values(tree: Tree) -> dict[Node, float]:
    """Q of every node: what the policy may expect of it, as far as the tree knows."""
    q: dict[Node, float] = {}
    for node in reversed(list(tree.root.walk())):
        q[node] = _expected_q(node, q)
    return q


def _expected_q(node: Node, below: dict[Node, float]) -> float:
    """The reward of an end; else the mean over its children and, for what the policy would otherwise write, V."""
    if node.status is not Status.OPEN:
        return node.end_value
    own = node.value if node.step is None else node.step.values[-1]
    known, total = 0.0, 0.0
    for child in node.made:
        assert child.step is not None
        chance = math.exp(sum(child.step.logprobs))
        known += chance
        total += chance * below[child]
    return total + max(0.0, 1 - known) * (own or 0.0)
