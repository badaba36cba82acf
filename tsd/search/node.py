"""The tree's data: nodes, and what each of their numbers means. Knows nothing about how they come to change.

A node is the state after a step. It holds that step, the edge that leads to it, and knows its parent weakly:

    root                 step None: its state is the prompt
     |  made             children that search has come to, each a Node
     |    |- Node        step "5*9=45", up -> root
     |    |   |  made
     |    |   |    '- Node      step "<answer>...": TERMINAL, with a grade
     |    |   '  untouched      None: all its steps are nodes
     |    '- Node        step "5+13=18": OPEN, not expanded, value None
     '  untouched        [Step, Step]: sampled, but no nodes before search goes there

    N visits      O in flight      passed = N + O      W value_sum      Q mean = W / N      P prior      V value
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from weakref import ref

import msgspec

from tsd.types import Grade, Step

WORST_REWARD = -1.0


class Status(Enum):
    """What may still happen below a node."""

    OPEN = "open"
    TERMINAL = "terminal"
    """The step finished the answer; it was graded once, on creation."""
    TRUNCATED = "truncated"
    """Past a limit of step, path or depth; worth WORST_REWARD."""


class Node(msgspec.Struct, eq=False, weakref=True):
    """The state after a step. Holds its own step alone, not a copy of the prefix.

    Nodes make no cycles of references, so a tree goes the moment it is let go: no garbage collector has to look for it.
    What selection reads comes first, within one or two cache lines: in a large tree that is what it waits for.
    """

    up: "ref[Node] | None"
    """To the parent, weakly."""
    step: Step | None
    """None at the root."""
    prior: float
    """P among its siblings; they sum to 1."""
    visits: int = 0
    """N: completed visits."""
    passed: int = 0
    """N + O: visits, and simulations that passed here and have not been backed up."""
    mean: float = 0.0
    """Q: the mean of the values backed up; before the first, V of the state as its last token was sampled."""
    closed: bool = False
    """Nothing below is left to search."""
    value_sum: float = 0.0
    """W: sum of the values backed up."""
    made: "Sequence[Node]" = ()
    """Its children but those in `untouched`."""
    untouched: list[Step] | None = None
    """The steps of its other children, the one of highest V last: different ones, open, of one prior. Search makes a
    node of a step when it goes there, and most often it never does."""
    untouched_prior: float = 0.0
    untouched_value: float = 0.0
    """V of the next of them, which is the highest."""
    depth: int = 0
    num_path_tokens: int = 0
    """Tokens from the prompt's end to here."""
    born: int = 0
    """Expansions of the tree before the one that made it."""
    expanded_at: int = 0
    """Expansions of the tree before its own that left steps untouched."""
    num_drawn: int = 1
    """Samples that were this step."""
    status: Status = Status.OPEN
    grade: Grade | None = None
    """A terminal node's."""
    value: float | None = None
    """V(s) from the value head, known once expanded."""
    expanding: bool = False
    """One agent is expanding this node; others wait for it."""

    @property
    def parent(self) -> "Node | None":
        """None at the root."""
        if self.up is None:
            return None
        parent = self.up()
        assert parent is not None, "a node is of use only as long as somebody holds its tree"
        return parent

    def make_children(self) -> "Sequence[Node]":
        """All children, for whoever looks at a tree: those that search has not come to are made now."""
        while self.untouched is not None:
            self.make_child()
        return self.made

    def make_child(self) -> "Node":
        """The next of the untouched ones, as the last of `made`."""
        untouched, made = self.untouched, self.made
        assert untouched, "some child is still to be made"
        assert isinstance(made, list), "of a node with untouched children it is"
        step = untouched.pop()
        child = Node(ref(self), step, self.untouched_prior, depth=self.depth + 1, born=self.expanded_at)
        child.num_path_tokens, child.mean = self.num_path_tokens + len(step.tokens), self.untouched_value
        made.append(child)
        if untouched:
            self.untouched_value = untouched[-1].values[-1]
        else:
            self.untouched = None
        return child

    @property
    def in_flight(self) -> int:
        """O: simulations that passed here and have not been backed up."""
        return self.passed - self.visits

    @property
    def q(self) -> float:
        """What is known of the state: of an end its reward, else `mean`."""
        return self.mean if self.status is Status.OPEN else self.end_value

    @property
    def end_value(self) -> float:
        """What a visit to an ended node is worth."""
        return self.grade.reward if self.grade else WORST_REWARD

    def path(self) -> "list[Node]":
        """From the root's child down to here."""
        nodes: list[Node] = []
        node = self
        while (parent := node.parent) is not None:
            nodes.append(node)
            node = parent
        nodes.reverse()
        return nodes

    def walk(self) -> "Iterator[Node]":
        """This node and all below, parents first, children in order; makes those that search has not come to."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack += reversed(node.make_children())
