"""Grows one tree with many agents. Ends when a budget is used up, the tree is solved, or nothing is left to search.

Knows nothing about how a simulation goes.
"""

import asyncio
from collections.abc import Awaitable, Callable

from tsd.search.tree import Tree


async def grow(tree: Tree, simulate: Callable[[], Awaitable[None]], num_agents: int) -> str:
    """So many agents in one task group; returns the reason for the end. An agent's error ends them all.

    Simulations that have begun are completed, also past the budget.
    """
    async with asyncio.TaskGroup() as group:
        for agent in range(num_agents):
            group.create_task(_agent(tree, simulate), name=f"agent {agent}")
    reason = tree.stop_reason()
    assert reason is not None, "agents stop only when the tree is done"
    return reason


async def _agent(tree: Tree, simulate: Callable[[], Awaitable[None]]) -> None:
    """One simulation after another until the tree is done."""
    while tree.begin():
        num_expansions = tree.num_expansions
        await simulate()
        if tree.num_expansions == num_expansions:
            # A simulation that met only ended nodes awaited nothing; the loop must still turn.
            await asyncio.sleep(0)
