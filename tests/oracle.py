"""One-agent search written a second time, as plainly as can be: what the real one must equal, visit for visit.

Recursive, over dictionaries, with nothing kept that can be computed anew. Shares no code with `tsd.search`.
"""

import math
from collections.abc import Callable
from typing import Any

from tsd.types import Expansion

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
