"""One-agent search written a second time, as plainly as can be: what the real one must equal, visit for visit.

Recursive, over dictionaries, with nothing kept that can be computed anew. Shares no code with `tsd.search`.
"""

import math
import random
from collections.abc import Callable
from typing import Any

from tsd.types import Expansion, Step

State = tuple[int, ...]


def oracle(
    prompt: State,
    engine: Callable[[State], Expansion],
    grade: Callable[[State], float],
    *,
    simulations: int,
    c_puct: float,
    fpu_reduction: float,
    max_depth: int,
) -> dict[State, tuple[int, float]]:
    """Visits and mean value of every response visited, by its tokens."""
    returns: dict[State, list[float]] = {}
    children: dict[State, dict[State, float]] = {}
    ended: dict[State, float] = {}

    def closed(state: State) -> bool:
        return state in ended or (state in children and all(closed(child) for child in children[state]))

    def visit(state: State, depth: int) -> float:
        if state in ended:
            value = ended[state]
        elif state not in children:
            value = expand(state, depth)
        else:
            value = visit(best(state), depth + 1)
        returns.setdefault(state, []).append(value)
        return value

    def expand(state: State, depth: int) -> float:
        answer = engine(prompt + state)
        count: dict[State, Any] = {}
        for step in answer.steps:
            child = state + step.tokens
            count[child] = count.get(child, 0) + 1
            if step.finish == "end":
                ended[child] = grade(child)
            elif depth + 1 >= max_depth:
                ended[child] = -1.0
        children[state] = {child: number / len(answer.steps) for child, number in count.items()}
        return answer.value

    def best(state: State) -> State:
        priors = children[state]
        below = sum(len(returns.get(child, [])) for child in priors)
        mean = sum(returns[state]) / len(returns[state])

        def score(child: State) -> float:
            own = returns.get(child, [])
            q = sum(own) / len(own) if own else mean - fpu_reduction
            return q + c_puct * priors[child] * math.sqrt(max(1, below)) / (1 + len(own))

        # Of equals: what has been visited, then the likelier, then the one drawn first.
        order = sorted(priors, key=lambda child: (child not in returns, -priors[child]))
        return max((child for child in order if not closed(child)), key=score)

    for _ in range(simulations):
        if closed(()):
            break
        visit((), 0)
    return {state: (len(values), sum(values) / len(values)) for state, values in returns.items()}


def oracle_index(
    prompt: State,
    answer: Callable[[State, int, State], Expansion],
    solves: Callable[[State], bool],
    judge: Callable[[int, float], tuple[float, float]],
    *,
    seed: int,
    root: tuple[float, float, float],
    budget: int,
    max_depth: int,
    max_step_tokens: int,
    max_path_tokens: int,
) -> list[tuple[State, State]]:
    """Search by index with one agent: every state it asks the engine about, and the tokens it excludes there.

    `root` is the chance of a path from the prompt, its tokens, and the strength of that belief.
    """
    rng = random.Random(seed)
    steps: dict[State, list[Any]] = {(): []}  # of every open response, the steps known to follow it
    failed: dict[State, float] = {(): 0.0}
    above: dict[State, State] = {}
    judged: dict[State, tuple[float, float]] = {}
    asked: list[tuple[State, State]] = []
    spent = 0

    def places(response: State) -> dict[State, tuple[float, dict[int, float]]]:
        found: dict[State, tuple[float, dict[int, float]]] = {(): (1.0, {})}
        for one in steps[response]:
            for i in range(len(one.tokens)):
                reach = math.prod(math.exp(logprob) for logprob in one.logprobs[:i])
                found.setdefault(one.tokens[:i], (reach, {}))[1][one.tokens[i]] = math.exp(one.logprobs[i])
        return found

    def masses(response: State) -> dict[State, float]:
        return {at: max(0.0, reach * (1 - sum(known.values()))) for at, (reach, known) in places(response).items()}

    def index(response: State) -> float:
        mass = sum(masses(response).values())
        if mass < 1e-6:
            return 0.0
        if response == ():
            chance, tokens, strength = root
            return chance * strength / (strength + failed[()]) / tokens
        chance, tokens = judged[response]
        return chance * mass**2 / (1 + failed[response] / 2) / max(1.0, tokens)

    def fail(response: State, share: float) -> None:
        failed[response] += share
        if response != ():
            fail(above[response], share)

    def depth(response: State) -> int:
        return 0 if response == () else 1 + depth(above[response])

    while spent < budget:
        response = max(steps, key=index)
        if index(response) == 0:
            break
        while True:
            found = masses(response)
            (at,) = rng.choices(list(found), list(found.values()))
            excluded = tuple(sorted(places(response)[at][1]))
            asked.append(((*prompt, *response, *at), excluded))
            room = min(max_step_tokens, max_path_tokens - len(response)) - len(at)
            (rest,) = answer((*prompt, *response, *at), room, excluded).steps
            spent += len(rest.tokens)
            begun = next((one for one in steps[response] if one.tokens[: len(at)] == at), rest)
            one = Step(
                at + rest.tokens,
                [*begun.logprobs[: len(at)], *rest.logprobs],
                [*begun.values[: len(at)], *rest.values],
                rest.finish,
                0,
            )
            steps[response].append(one)
            new = response + one.tokens
            if one.finish != "step" or depth(response) + 1 >= max_depth:
                fail(response, 0.3 if one.finish == "end" and solves(new) else 1.0)
                break
            steps[new], failed[new], above[new] = [], 0.0, response
            judged[new] = judge(depth(new), one.values[-1])
            if spent >= budget or any(index(other) > index(new) for other in steps):
                fail(response, 1 - judged[new][0])
                break
            response = new
    return asked
