"""Grows one tree with many agents. Ends when a budget is used up, the tree is solved, or nothing is left to search."""

import asyncio

from tsd.protocols import Engine
from tsd.search.agent import search
from tsd.search.tree import Tree


async def grow(tree: Tree, engine: Engine) -> str:
    """`config.agents` agents in one task group; returns the reason for the end. An agent's error ends them all.

    Simulations that have begun are completed, also past the budget of tokens or seconds.
    """
    limit_s = tree.config.time_limit_s
    timer = asyncio.get_running_loop().call_later(limit_s, _expire, tree) if limit_s else None
    try:
        async with asyncio.TaskGroup() as group:
            for agent in range(tree.config.agents):
                group.create_task(search(tree, engine), name=f"agent {agent}")
    finally:
        if timer is not None:
            timer.cancel()
    reason = tree.stop_reason()
    assert reason is not None, "agents stop only when the tree is done"
    return reason


def _expire(tree: Tree) -> None:
    tree.expired = True
