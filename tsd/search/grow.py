"""Grows one tree with many agents. Ends when a budget is used up, the tree is solved, or nothing is left to search."""

import asyncio

from tsd.protocols import Engine
from tsd.search.agent import search
from tsd.search.tree import Tree


async def grow(tree: Tree, engine: Engine) -> str:
    """`config.agents` agents in one task group; returns the reason for the end. An agent's error ends them all."""
    async with asyncio.TaskGroup() as group:
        for agent in range(tree.config.agents):
            group.create_task(search(tree, engine), name=f"agent {agent}")
    reason = tree.stop_reason()
    assert reason is not None, "agents stop only when the tree is done"
    return reason
