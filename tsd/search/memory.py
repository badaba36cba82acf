"""Memory of steps: what came of states like a new one, mixed into its first value.

    V of a new state = (1 - w) * V + w * mean        w = SHARE * num / (num + FEW)

num near states are remembered, and mean is of what came of them. Knows nothing about how a memory finds them.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from tsd.search.harvest import expected_values
from tsd.search.tree import Tree

SHARE = 0.5
"""The most that a memory may count, beside V."""
FEW = 4
"""States at which it counts for half of that."""


class Place(NamedTuple):
    """Where a path stands, as far as a memory is concerned: for stepwise reasoning its last step says the most."""

    prompt: tuple[int, ...]
    step: tuple[int, ...]


class Memory(Protocol):
    """Places that trees have been to; many coroutines ask at once."""

    async def recall(self, place: Place) -> tuple[float, int]:
        """The mean of what came of the places near it, and how many there are; 0 and 0 of none."""
        ...

    async def remember(self, outcomes: Mapping[Place, float]) -> None:
        """Keeps what came of each place, in the place of what it held of the same one."""
        ...


async def first_value(memory: Memory, place: Place, value: float) -> float:
    """What a new state is taken to be worth, where the policy says `value`."""
    mean, num = await memory.recall(place)
    share = SHARE * num / (num + FEW)
    return (1 - share) * value + share * mean


def outcomes(tree: Tree) -> dict[Place, float]:
    """What came of every state that search went on from: the policy's expectation, as far as the tree knows it."""
    values = expected_values(tree)
    return {Place(tree.prompt, node.step.tokens): q for node, q in values.items() if node.step and node.made}
