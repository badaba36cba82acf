"""The search tree: nodes, and every change ever made to them.

Each method here is one synchronous call, so with all agents on one event loop the tree needs no lock. Knows nothing
about engines, coroutines or what the tokens say.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tsd.config import SearchConfig
from tsd.search.prior import Merged, merge
from tsd.types import Expansion, Grade, Step

WORST_REWARD = -1.0
BEST_REWARD = 1.0


class Status(Enum):
    """What may still happen below a node."""

    OPEN = "open"
    TERMINAL = "terminal"
    """The step finished the answer; it was graded once, on creation."""
    TRUNCATED = "truncated"
    """Past a limit of step, path or depth; worth WORST_REWARD."""


@dataclass(slots=True, eq=False)
class Node:
    """The state after a step. Holds its own step alone, not a copy of the prefix."""

    parent: "Node | None"
    step: Step | None
    """None at the root."""
    depth: int
    num_path_tokens: int
    """Tokens from the prompt's end to here."""
    prior: float
    status: Status = Status.OPEN
    grade: Grade | None = None
    """Of a terminal node."""
    visits: int = 0
    """N: completed visits."""
    value_sum: float = 0.0
    """W: sum of what those visits backed up."""
    in_flight: int = 0
    """O: simulations that passed here and have not been backed up."""
    value: float | None = None
    """V(s) from the value head, known once expanded."""
    children: list["Node"] = field(default_factory=list)
    closed: bool = False
    """Nothing below is left to search."""
    expanding: asyncio.Event | None = None
    """Set while one agent expands this node; others wait for it."""

    @property
    def q(self) -> float:
        """Mean of completed visits; before the first, V where known, else 0."""
        return self.value_sum / self.visits if self.visits else self.value or 0.0

    @property
    def end_value(self) -> float:
        """What a visit to an ended node is worth."""
        return self.grade.reward if self.grade else WORST_REWARD

    def path(self) -> list["Node"]:
        """From the root's child down to here."""
        nodes: list[Node] = []
        node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def walk(self) -> Iterator["Node"]:
        """This node and all below, parents first, children in order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack += reversed(node.children)


class Tree:
    """One problem's search. `grade` is called once for each new finished answer, with the response's tokens."""

    def __init__(self, prompt: Sequence[int], grade: Callable[[Sequence[int]], Grade], config: SearchConfig) -> None:
        self.prompt, self.grade, self.config = tuple(prompt), grade, config
        self.root = Node(parent=None, step=None, depth=0, num_path_tokens=0, prior=1.0)
        self.solved = False
        """A path reached the highest reward."""
        self.num_simulations = 0
        """Begun; all are complete when `grow` returns."""
        self.num_expansions = 0
        self.num_generated = 0
        """Tokens."""
        self.num_collisions = 0
        """Times an agent found its leaf being expanded by another."""
        self.num_duplicates = 0
        """Samples merged into an equal one."""

    def begin(self) -> bool:
        """Takes one simulation from the budget; False when the tree is done."""
        if self.stop_reason() is not None:
            return False
        self.num_simulations += 1
        return True

    def stop_reason(self) -> str | None:
        """Why no further simulation should begin, or None."""
        config = self.config
        if self.solved and config.stop_when_solved:
            return "solved"
        if self.root.closed:
            return "exhausted"
        if self.num_simulations >= config.simulations:
            return "simulations"
        if config.max_tokens and self.num_generated >= config.max_tokens:
            return "tokens"
        return None

    def state(self, node: Node) -> tuple[int, ...]:
        """Prompt and response up to a node, as the engine takes it."""
        return self.prompt + self.response(node)

    def response(self, node: Node) -> tuple[int, ...]:
        """The tokens from the prompt's end to a node."""
        return tuple(token for step in self.steps(node) for token in step.tokens)

    def steps(self, node: Node) -> tuple[Step, ...]:
        """The steps from the root to a node."""
        return tuple(n.step for n in node.path() if n.step is not None)

    def mark(self, node: Node) -> None:
        """A simulation passes."""
        node.in_flight += 1

    def unmark(self, path: Sequence[Node]) -> None:
        """A simulation is over, however it ended."""
        for node in path:
            node.in_flight -= 1

    def backup(self, path: Sequence[Node], value: float) -> None:
        """One evaluation, counted once in every node it passed."""
        for node in path:
            node.visits += 1
            node.value_sum += value

    def expand(self, node: Node, expansion: Expansion) -> None:
        """Gives a node its value and children. Equal samples become one child with their prior mass added."""
        assert not node.children, "a node is expanded once"
        merged = merge(expansion.steps, self.config.prior)
        node.value = expansion.value
        node.children = [self._child(node, sample) for sample in merged]
        self.num_expansions += 1
        self.num_generated += sum(len(step.tokens) for step in expansion.steps)
        self.num_duplicates += len(expansion.steps) - len(merged)
        self._close(node)

    def _child(self, parent: Node, sample: Merged) -> Node:
        config, step = self.config, sample.step
        child = Node(parent, step, parent.depth + 1, parent.num_path_tokens + len(step.tokens), sample.prior)
        if step.finish == "end":
            child.status = Status.TERMINAL
            child.grade = self.grade(self.response(child))
            self.solved |= child.grade.reward >= BEST_REWARD
        elif step.finish == "length" or self.room(child) <= 0 or child.depth >= config.max_depth:
            child.status = Status.TRUNCATED
        child.closed = child.status is not Status.OPEN
        return child

    def room(self, node: Node) -> int:
        """Tokens left to a path that has come to `node`."""
        return self.config.max_path_tokens - node.num_path_tokens

    def _close(self, node: Node | None) -> None:
        """Closes nodes upward as long as nothing is left below them."""
        while node is not None and node.children and all(child.closed for child in node.children):
            node.closed = True
            node = node.parent


def tree_hash(tree: Tree) -> str:
    """A digest of every step, visit, value and status: equal for equal trees, on any machine."""
    digest = hashlib.blake2b(digest_size=8)
    for node in tree.root.walk():
        tokens = node.step.tokens if node.step else ()
        value = round(node.value_sum, 6) if math.isfinite(node.value_sum) else node.value_sum
        digest.update(repr((node.depth, tokens, node.visits, value, round(node.prior, 6), node.status.value)).encode())
    return digest.hexdigest()
