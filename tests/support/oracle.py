"""One-agent search written a second time, as plainly as can be: what the real one must equal, visit for visit.

Recursive, over dictionaries, with nothing kept that can be computed anew. Shares no code with `tsd.search`.
"""

import math
import random
from collections.abc import Callable

from tsd.types import Expansion, Step

State = tuple[int, ...]


class PuctOracle:
    """Search by pUCT with one agent. What it is asked for is in `returns`: of every response visited, all values."""

    def __init__(
        self,
        prompt: State,
        engine: Callable[[State], Expansion],
        grade: Callable[[State], float],
        c_puct: float,
        max_depth: int,
    ) -> None:
        self.prompt, self.engine, self.grade, self.c_puct, self.max_depth = prompt, engine, grade, c_puct, max_depth
        self.returns: dict[State, list[float]] = {}
        self.children: dict[State, dict[State, float]] = {}
        self.first: dict[State, float] = {}
        self.ended: dict[State, float] = {}

    def closed(self, state: State) -> bool:
        below = self.children.get(state)
        return state in self.ended or (below is not None and all(self.closed(child) for child in below))

    def visit(self, state: State, depth: int) -> float:
        if state in self.ended:
            value = self.ended[state]
        elif state not in self.children:
            value = self.expand(state, depth)
        else:
            value = self.visit(self.best(state), depth + 1)
        self.returns.setdefault(state, []).append(value)
        return value

    def expand(self, state: State, depth: int) -> float:
        answer = self.engine(self.prompt + state)
        count: dict[State, int] = {}
        for step in answer.steps:
            child = state + step.tokens
            count[child] = count.get(child, 0) + 1
            self.first.setdefault(child, step.values[-1])
            if step.finish == "end":
                self.ended[child] = self.grade(child)
            elif depth + 1 >= self.max_depth:
                self.ended[child] = -1.0
        self.children[state] = {child: number / len(answer.steps) for child, number in count.items()}
        return answer.value

    def best(self, state: State) -> State:
        priors = self.children[state]
        below = sum(len(self.returns.get(child, [])) for child in priors)

        def score(child: State) -> float:
            own = self.returns.get(child, [])
            q = sum(own) / len(own) if own else self.first[child]
            return q + self.c_puct * priors[child] * math.sqrt(max(1, below)) / (1 + len(own))

        return max((child for child in priors if not self.closed(child)), key=score)


def oracle(tree: PuctOracle, simulations: int) -> dict[State, tuple[int, float]]:
    """Visits and mean value of every response visited, by its tokens."""
    for _ in range(simulations):
        if tree.closed(()):
            break
        tree.visit((), 0)
    return {state: (len(values), sum(values) / len(values)) for state, values in tree.returns.items()}


class IndexOracle:
    """Search by index with one agent, as trees to be learned from are searched with `training`.

    `root` is what is believed of the prompt: its chance, tokens, and strength.
    """

    def __init__(
        self,
        judge: Callable[[int, float], tuple[float, float]],
        root: tuple[float, float, float],
        seed: int,
        *,
        training: bool = False,
    ) -> None:
        self.judge, self.root, self.rng, self.training = judge, root, random.Random(seed), training
        self.steps: dict[State, list[Step]] = {(): []}  # of every open response, the steps known to follow it
        self.failed: dict[State, float] = {(): 0.0}
        self.above: dict[State, State] = {}
        self.judged: dict[State, tuple[float, float]] = {}

    def places(self, response: State) -> dict[State, tuple[float, dict[int, float]]]:
        found: dict[State, tuple[float, dict[int, float]]] = {(): (1.0, {})}
        for one in self.steps[response]:
            for i in range(len(one.tokens)):
                reach = math.prod(math.exp(logprob) for logprob in one.logprobs[:i])
                found.setdefault(one.tokens[:i], (reach, {}))[1][one.tokens[i]] = math.exp(one.logprobs[i])
        return found

    def masses(self, response: State) -> dict[State, float]:
        places = self.places(response)
        return {at: max(0.0, reach * (1 - sum(known.values()))) for at, (reach, known) in places.items()}

    def index(self, response: State) -> float:
        mass = sum(self.masses(response).values())
        if mass < 1e-6:
            return 0.0
        if response == ():
            chance, tokens, strength = self.root
            common = 1.0 if self.training else min(1.0, mass / 0.5)
            return chance * strength / (strength + self.failed[()]) * common / tokens
        chance, tokens = self.judged[response]
        weight = 0.5 if self.training else chance / 0.2
        return chance * mass**2 / (1 + weight * self.failed[response]) / max(1.0, tokens)

    def fail(self, response: State, share: float) -> None:
        self.failed[response] += share
        if response != ():
            self.fail(self.above[response], share)

    def depth(self, response: State) -> int:
        return 0 if response == () else 1 + self.depth(self.above[response])

    def draw(self, response: State) -> tuple[State, State]:
        """A place to leave the known steps at, and the tokens that are known there."""
        found = self.masses(response)
        (at,) = self.rng.choices(list(found), list(found.values()))
        return at, tuple(sorted(self.places(response)[at][1]))

    def add(self, response: State, at: State, rest: Step) -> Step:
        """The whole step that begins as a known one does."""
        begun = next((one for one in self.steps[response] if one.tokens[: len(at)] == at), rest)
        logprobs = [*begun.logprobs[: len(at)], *rest.logprobs]
        values = [*begun.values[: len(at)], *rest.values]
        one = Step(at + rest.tokens, logprobs, values, rest.finish, 0)
        self.steps[response].append(one)
        return one

    def open(self, response: State, one: Step) -> State:
        new = response + one.tokens
        self.steps[new], self.failed[new], self.above[new] = [], 0.0, response
        self.judged[new] = self.judge(self.depth(new), one.values[-1])
        return new


def oracle_index(
    prompt: State,
    answer: Callable[[State, int, State], Expansion],
    solves: Callable[[State], bool],
    tree: IndexOracle,
    *,
    budget: int,
    max_depth: int,
    max_step_tokens: int,
    max_path_tokens: int,
) -> list[tuple[State, State]]:
    """Every state that search asks the engine about, and the tokens that it excludes there."""
    asked: list[tuple[State, State]] = []
    spent = 0
    while spent < budget:
        response = max(tree.steps, key=tree.index)
        if tree.index(response) == 0:
            break
        while True:
            at, excluded = tree.draw(response)
            asked.append(((*prompt, *response, *at), excluded))
            room = min(max_step_tokens, max_path_tokens - len(response)) - len(at)
            (rest,) = answer((*prompt, *response, *at), room, excluded).steps
            spent += len(rest.tokens)
            one = tree.add(response, at, rest)
            if one.finish != "step" or tree.depth(response) + 1 >= max_depth:
                tree.fail(response, 0.3 if one.finish == "end" and solves(response + one.tokens) else 1.0)
                break
            new = tree.open(response, one)
            if spent >= budget or any(tree.index(other) > tree.index(new) for other in tree.steps):
                tree.fail(response, 1 - tree.judged[new][0])
                break
            response = new
    return asked
