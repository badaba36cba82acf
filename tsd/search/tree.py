"""The search tree, and every change ever made to it.

Each method here is one synchronous call, so with all agents on one event loop the tree needs no lock. Knows nothing
about engines, coroutines or what the tokens say.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tsd.config import SearchConfig
from tsd.search.gumbel import GumbelRoot
from tsd.search.node import BEST_REWARD, Node, Status
from tsd.search.prior import order, set_priors
from tsd.types import Expansion, Grade, Position, Step


@dataclass(slots=True)
class Reserve:
    """Simulations that ended trees did not need. Trees of one reserve may go on with them past their own budget."""

    num_simulations: int = 0


class Tree:
    """One problem's search.

    `grade` is called once for each new finished answer, and `read` for each new step where the search uses what a task
    knows of it; both take the response's tokens so far. `seed` is for the root's noise alone.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        grade: Callable[[Sequence[int]], Grade],
        config: SearchConfig,
        *,
        read: Callable[[Sequence[int]], Position] | None = None,
        reserve: Reserve | None = None,
        seed: int = 0,
    ) -> None:
        self.prompt, self.grade, self.config = tuple(prompt), grade, config
        self.read = read if config.transpositions or config.prune_dead else None
        self.reserve, self.rng = reserve, random.Random(seed)
        self.root = Node(parent=None, step=None, depth=0, num_path_tokens=0, born=0, prior=1.0)
        self.gumbel = GumbelRoot(config, self.rng) if config.root == "gumbel" else None
        self.first_of: dict[str, Node] = {}
        """The first node of each state key."""
        self.budget = config.simulations
        self.expired = False
        """Its time is up."""
        self.solved = False
        """A path reached the highest reward."""
        self.q_low, self.q_scale = 0.0, 1.0
        """Selection takes (Q - q_low) * q_scale: the range seen so far where Q is normalised."""
        self._q_high = -float("inf")
        self._arrivals: dict[Node, asyncio.Event] = {}
        """Of nodes being expanded, those that somebody waits for."""
        self.num_simulations = 0
        """Begun; all are complete when `grow` returns."""
        self.num_expansions = 0
        self.num_nodes = 1
        self.num_generated = 0
        """Tokens."""
        self.num_tokens_to_solve: int | None = None
        """Tokens generated up to the first path of the highest reward."""
        self.num_simulations_to_solve: int | None = None
        """Simulations begun by then."""
        self.num_expanding = 0
        """Expansions under way."""
        self.num_collisions = 0
        """Times an agent found its leaf being expanded by another."""
        self.num_duplicates = 0
        """Samples merged into an equal one."""
        self.num_transpositions = 0
        """Nodes that share an earlier one's statistics."""
        self.num_grades = self.num_grades_reused = 0

    def begin(self) -> bool:
        """Takes one simulation from the budget; False when the tree is done."""
        reason = self.stop_reason()
        if reason is not None and not (reason == "simulations" and self._draw_on_reserve()):
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
        if self.expired:
            return "seconds"
        if config.max_tokens and self.num_generated >= config.max_tokens:
            return "tokens"
        if self.num_simulations >= self.budget:
            return "simulations"
        return None

    def give_back(self) -> None:
        """Leaves what is left of the budget to the other trees of the reserve."""
        if self.reserve is not None:
            self.reserve.num_simulations += self.budget - self.num_simulations
            self.budget = self.num_simulations

    def _draw_on_reserve(self) -> bool:
        """One simulation more, up to twice what the tree was given."""
        if self.reserve is None or not self.reserve.num_simulations or self.budget >= 2 * self.config.simulations:
            return False
        self.reserve.num_simulations -= 1
        self.budget += 1
        return True

    def state(self, node: Node) -> tuple[int, ...]:
        """Prompt and response up to a node, as the engine takes it."""
        return self.tokens((self.root, *node.path()))

    def tokens(self, path: Sequence[Node]) -> tuple[int, ...]:
        """Prompt and response along a path from the root."""
        tokens = list(self.prompt)
        for node in path:
            if node.step is not None:
                tokens += node.step.tokens
        return tuple(tokens)

    def response(self, node: Node) -> tuple[int, ...]:
        """The tokens from the prompt's end to a node."""
        return self.state(node)[len(self.prompt) :]

    def steps(self, node: Node) -> list[Step]:
        """The steps from the root to a node."""
        return [n.step for n in node.path() if n.step is not None]

    def room(self, node: Node) -> int:
        """Tokens left to a path that has come to `node`."""
        return self.config.max_path_tokens - node.num_path_tokens

    def widens(self, node: Node) -> bool:
        """Whether a node whose samples all coincided should be sampled again: once more at each doubling of visits."""
        if self.config.widen != "always" or node.expanding:
            return False
        num_draws = max(1, node.children[0].num_drawn // self.config.num_samples)
        return node.visits >= 1 << num_draws

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
        if (arrival := self._arrivals.pop(node, None)) is not None:
            arrival.set()

    def enter(self) -> list[Node]:
        """A simulation begins at the root; returns its path."""
        self.root.in_flight += 1
        return [self.root]

    def unmark(self, path: Sequence[Node]) -> None:
        """A simulation is over, however it ended."""
        for node in path:
            node.in_flight -= 1

    def backup(self, path: Sequence[Node], value: float) -> None:
        """One evaluation, counted once in every node it passed, and once in every state."""
        if self.num_transpositions:
            self._backup_shared(path, value)
        else:
            for node in path:
                node.visits += 1
                node.value_sum += value
                node.num_values += 1
        if self.config.min_max_q:
            self._widen_range(value)

    def _backup_shared(self, path: Sequence[Node], value: float) -> None:
        """Visits belong to a node, values to its state: a path that meets a state again counts once there."""
        for node in path:
            node.visits += 1
        for holder in dict.fromkeys(node.twin or node for node in path):
            holder.value_sum += value
            holder.num_values += 1

    def expand(self, node: Node, expansion: Expansion) -> None:
        """Gives a node its value and children. Equal samples become one child with their prior mass added."""
        if node.value is None:
            node.value = expansion.value
        node.spent = False
        found = {child.step.tokens: child for child in node.children if child.step} if node.children else {}
        children, depth, num_path_tokens = list(found.values()), node.depth + 1, node.num_path_tokens
        born, may_end = self.num_expansions, self.read is not None or depth >= self.config.max_depth
        for step in expansion.steps:
            tokens = step.tokens
            self.num_generated += len(tokens)
            child = found.get(tokens)
            if child is None:
                found[tokens] = child = Node(node, step, depth, num_path_tokens + len(tokens), born)
                children.append(child)
                if may_end or step.finish != "step" or child.num_path_tokens >= self.config.max_path_tokens:
                    self._settle(child, step)
            else:
                self.num_duplicates += 1
            child.num_drawn += 1
        self.num_nodes += len(children) - len(node.children)
        node.children = children
        set_priors(children, self.config.prior)
        if node is self.root and self.config.root_noise:
            self._add_noise(children)
        self.num_expansions += 1
        self.close(node)

    def _settle(self, child: Node, step: Step) -> None:
        """A new node's status: whether anything may follow it."""
        config = self.config
        if step.finish == "end":
            child.status = Status.TERMINAL
            child.grade = self._grade(child)
            if child.grade.reward >= BEST_REWARD and not self.solved:
                self.solved = True
                self.num_tokens_to_solve, self.num_simulations_to_solve = self.num_generated, self.num_simulations
        elif (
            step.finish == "length"
            or child.num_path_tokens >= config.max_path_tokens
            or child.depth >= config.max_depth
        ):
            child.status = Status.TRUNCATED
        elif self.read is None or not self._recognise(child, self.read(self.response(child))):
            return
        child.closed = True

    def _recognise(self, child: Node, position: Position) -> bool:
        """What the task reads in the steps so far; True where it ends the path."""
        if position.dead and self.config.prune_dead:
            child.status = Status.DEAD
            return True
        if position.key is not None and self.config.transpositions:
            first = self.first_of.setdefault(position.key, child)
            if first is not child:
                child.twin = first
                self.num_transpositions += 1
        return False

    def _grade(self, child: Node) -> Grade:
        """Equal answers, by the task's key, are graded once."""
        response = self.response(child)
        position = self.read(response) if self.read is not None else None
        if position is None or position.key is None:
            self.num_grades += 1
            return self.grade(response)
        first = self.first_of.setdefault(position.key, child)
        if first.grade is None:
            self.num_grades += 1
            return self.grade(response)
        self.num_grades_reused += 1
        return first.grade

    def _add_noise(self, children: list[Node]) -> None:
        """Dirichlet noise mixed into the root's priors (Silver et al., 2017)."""
        share = self.config.root_noise
        drawn = [self.rng.gammavariate(self.config.root_noise_alpha, 1.0) for _ in children]
        for child, one in zip(children, drawn, strict=True):
            child.prior = (1 - share) * child.prior + share * one / sum(drawn)
        order(children)

    def _widen_range(self, value: float) -> None:
        """Min-max normalisation (Schrittwieser et al., 2020), over the values backed up."""
        low = value if self._q_high == -float("inf") else min(self.q_low, value)
        self._q_high = max(self._q_high, value)
        self.q_low = low
        self.q_scale = 1.0 / (self._q_high - low) if self._q_high > low else 1.0

    def close(self, node: Node | None) -> None:
        """Closes nodes upward as long as nothing is left below them.

        Unless `widen` is `never`, a node of which some sample was drawn but once is spent instead: the share of such
        samples is the chance that another one would be new (Good, 1953).
        """
        while node is not None:
            for child in node.children:
                if not child.closed:
                    return
            if self.config.widen != "never" and any(child.num_drawn == 1 for child in node.children):
                node.spent = True
                return
            node.closed = True
            node = node.parent
