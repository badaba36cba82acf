"""The search tree, and every change ever made to it.

Each method here is one synchronous call, so with all agents on one event loop the tree needs no lock. Knows nothing
about engines, coroutines or what the tokens say.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import ref

from tsd.config import SearchConfig
from tsd.search.hot import leave_untouched
from tsd.search.node import Node, Status
from tsd.search.prior import PriorKind, set_priors
from tsd.types import Expansion, Grade, Step


@dataclass(frozen=True, slots=True)
class Budget:
    """When a tree has had enough; 0 is no limit. Simulations that have begun are completed, past it too."""

    simulations: int = 0
    max_tokens: int = 0
    """Generated ones."""
    solutions: int = 0
    """Different paths that solve the problem."""


NO_LIMIT = Budget()


class Tree:
    """One problem's search.

    `grade` takes a finished answer's tokens, and is called once for each new one. `seed` is for what is drawn in it.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        grade: Callable[[Sequence[int]], Grade],
        limits: SearchConfig,
        *,
        seed: int = 0,
    ) -> None:
        self.prompt, self.grade, self.limits, self.seed = tuple(prompt), grade, limits, seed
        self.budget = NO_LIMIT
        """Whoever searches the tree sets it."""
        self.is_given_up = False
        """Nothing that is left promises enough."""
        self.root = Node(up=None, step=None, prior=1.0)
        self.num_solutions = 0
        """Different paths that solve the problem."""
        self._arrivals: dict[Node, asyncio.Event] = {}
        """Nodes being expanded that somebody waits for."""
        self.num_simulations = 0
        """Begun; all are complete when `grow` returns."""
        self.num_expansions = 0
        self.num_nodes = 1
        self.num_generated = 0
        """Tokens generated for it."""
        self.num_tokens_to_solve: int | None = None
        """Tokens generated up to the first path that does."""
        self.num_simulations_to_solve: int | None = None
        """Simulations begun by then."""
        self.num_expanding = 0
        """Expansions under way."""
        self.num_collisions = 0
        """Times an agent found its leaf being expanded by another."""
        self.num_duplicates = 0
        """Samples merged into an equal one."""

    @property
    def solved(self) -> bool:
        """Whether a path solves the problem."""
        return self.num_solutions > 0

    def begin(self) -> bool:
        """Takes one simulation from the budget; False when the tree is done."""
        if self.stop_reason() is not None:
            return False
        self.num_simulations += 1
        return True

    def stop_reason(self) -> str | None:
        """Why no further simulation should begin, or None."""
        budget = self.budget
        if budget.solutions and self.num_solutions >= budget.solutions:
            return "solved"
        if self.root.closed:
            return "exhausted"
        if self.is_given_up:
            return "given up"
        if budget.max_tokens and self.num_generated >= budget.max_tokens:
            return "tokens"
        if budget.simulations and self.num_simulations >= budget.simulations:
            return "simulations"
        return None

    def state(self, node: Node) -> tuple[int, ...]:
        """Prompt and response up to a node, as the engine takes it."""
        return tuple(self.tokens((self.root, *node.path())))

    def tokens(self, path: Sequence[Node]) -> list[int]:
        """Prompt and response along a path from the root."""
        tokens = list(self.prompt)
        for node in path[1:]:
            tokens += node.step.tokens  # type: ignore[union-attr]  # the root alone has none
        return tokens

    def response(self, node: Node) -> tuple[int, ...]:
        """The tokens from the prompt's end to a node."""
        return self.state(node)[len(self.prompt) :]

    def steps(self, node: Node) -> list[Step]:
        """The steps from the root to a node."""
        return [n.step for n in node.path() if n.step is not None]

    def room(self, node: Node) -> int:
        """Tokens left to a path that has come to `node`."""
        return self.limits.max_path_tokens - node.num_path_tokens

    def step_room(self, node: Node) -> int:
        """Tokens that the next step may have."""
        room, longest = self.limits.max_path_tokens - node.num_path_tokens, self.limits.max_step_tokens
        return room if room < longest else longest  # `min` costs as much as the rest of this

    def claim(self, node: Node) -> None:
        """One agent expands `node`; others will wait."""
        node.expanding = True
        self.num_expanding += 1

    async def expanded(self, node: Node) -> None:
        """Waits until whoever expands `node` is done, or has failed."""
        await self._arrivals.setdefault(node, asyncio.Event()).wait()

    def release(self, node: Node) -> None:
        """The expansion is over, however it ended: those who wait for it go on."""
        node.expanding = False
        self.num_expanding -= 1
        if self._arrivals and (arrival := self._arrivals.pop(node, None)) is not None:
            arrival.set()

    def enter(self) -> list[Node]:
        """A simulation begins at the root; returns its path."""
        self.root.passed += 1
        return [self.root]

    def unmark(self, path: Sequence[Node]) -> None:
        """A simulation is given up: no evaluation comes back along this path."""
        for node in path:
            node.passed -= 1

    def backup(self, path: Sequence[Node], value: float) -> None:
        """One evaluation completes a visit to every node it passed."""
        for node in path:
            node.visits = visits = node.visits + 1
            node.value_sum = value_sum = node.value_sum + value
            node.mean = value_sum / visits

    def expand(self, node: Node, expansion: Expansion, prior: PriorKind = "multiplicity") -> None:
        """Gives a node its value and children; closes it where none of them can be gone on from."""
        if node.value is None:
            node.value = expansion.value
        if prior != "multiplicity" or not leave_untouched(self, node, expansion.steps):
            self.add(node, expansion.steps, prior=prior)
            self.close(node)

    def add(self, node: Node, steps: Sequence[Step], num_shared: int = 0, prior: PriorKind = "multiplicity") -> Node:
        """Samples become children, equal ones one child with their prior mass added.

        `num_shared` of their tokens were known and cost nothing. Returns the child that the last sample is.
        """
        old, limits = node.make_children(), self.limits
        depth, born, share = node.depth + 1, self.num_expansions, 1 / len(steps)
        longest = limits.max_path_tokens if depth < limits.max_depth else 0
        up, num_above, num_generated = ref(node), node.num_path_tokens, self.num_generated - num_shared
        children, known = list(old), [child.step.tokens for child in old]  # type: ignore[union-attr]
        for step in steps:
            tokens = step.tokens
            num_generated += len(tokens)
            if tokens in known:  # tuples mostly differ in their first tokens: no hash is as quick
                child = children[known.index(tokens)]
                child.num_drawn += 1
                continue
            num_path_tokens = num_above + len(tokens)
            child = Node(up, step, share, depth=depth, num_path_tokens=num_path_tokens, born=born)
            child.mean = step.values[-1]
            known.append(tokens)
            children.append(child)
            if step.finish != "step" or num_path_tokens >= longest:
                self.num_generated = num_generated
                self._settle(child, step)
        self.num_generated = num_generated
        node.made = children
        num_new = len(children) - len(old)
        self.num_nodes += num_new
        self.num_duplicates += len(steps) - num_new
        if prior != "multiplicity" or old or num_new < len(steps):
            set_priors(children, prior)
        self.num_expansions += 1
        return child

    def _settle(self, child: Node, step: Step) -> None:
        """A new node at which nothing may follow: an answer, or a path too long."""
        child.closed = True
        if step.finish != "end":
            child.status = Status.TRUNCATED
            return
        child.status = Status.TERMINAL
        child.grade = self.grade(self.response(child))
        self.num_solutions += child.grade.exact
        if child.grade.exact and self.num_solutions == 1:
            self.num_tokens_to_solve, self.num_simulations_to_solve = self.num_generated, self.num_simulations

    def close(self, node: Node | None) -> None:
        """Closes nodes upward as long as nothing is left below them."""
        while node is not None and node.untouched is None and all(child.closed for child in node.made):
            node.closed = True
            node = node.parent
