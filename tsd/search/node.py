"""The tree's data: nodes, and what each of their numbers means. Knows nothing about how they come to change."""

from collections.abc import Iterator, Sequence
from enum import Enum

import msgspec

from tsd.types import Grade, Step

WORST_REWARD = -1.0
BEST_REWARD = 1.0


class Status(Enum):
    """What may still happen below a node."""

    OPEN = "open"
    TERMINAL = "terminal"
    """The step finished the answer; it was graded once, on creation."""
    TRUNCATED = "truncated"
    """Past a limit of step, path or depth; worth WORST_REWARD."""
    DEAD = "dead"
    """The task says that nothing legal can follow; worth WORST_REWARD."""


class Node(msgspec.Struct, eq=False):
    """The state after a step. Holds its own step alone, not a copy of the prefix."""

    parent: "Node | None"
    step: Step | None
    """None at the root."""
    depth: int
    num_path_tokens: int
    """Tokens from the prompt's end to here."""
    born: int
    """Expansions of the tree before the one that made it."""
    prior: float = 0.0
    """P among its siblings; they sum to 1."""
    num_drawn: int = 0
    """Samples that were this step."""
    status: Status = Status.OPEN
    grade: Grade | None = None
    """Of a terminal node."""
    visits: int = 0
    """N: completed visits by way of this parent."""
    in_flight: int = 0
    """O: simulations that passed here and have not been backed up."""
    value_sum: float = 0.0
    """W: sum of the values backed up here and, where it is their twin, in other nodes of the same state."""
    num_values: int = 0
    """How many those are; equal to `visits` in a node that nobody shares."""
    twin: "Node | None" = None
    """The tree's first node of the same state, which then holds W for both."""
    value: float | None = None
    """V(s) from the value head, known once expanded."""
    children: "Sequence[Node]" = ()
    """Those that simulations have come to first, then the untouched ones by falling prior."""
    closed: bool = False
    """Nothing below is left to search."""
    spent: bool = False
    """Its children are all closed, but sampling it again may find others: that is what its next visit does."""
    expanding: bool = False
    """One agent is expanding this node; others wait for it."""

    @property
    def q(self) -> float:
        """Mean of the values backed up; before the first, V where known, else 0."""
        holder = self.twin or self
        return holder.value_sum / holder.num_values if holder.num_values else self.value or 0.0

    @property
    def end_value(self) -> float:
        """What a visit to an ended node is worth."""
        return self.grade.reward if self.grade else WORST_REWARD

    def path(self) -> "list[Node]":
        """From the root's child down to here."""
        nodes: list[Node] = []
        node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        nodes.reverse()
        return nodes

    def walk(self) -> "Iterator[Node]":
        """This node and all below, parents first, children in order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack += reversed(node.children)
