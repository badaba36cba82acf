"""Rows as a table, as a picture, and as advice."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from tsd.solve.measurement import Measurement

NEAR_BEST = 0.95
"""Rows with this share of the best speed are as good: of them the one with the fewest agents is recommended."""

COLUMNS: dict[str, tuple[str, str]] = {
    "agents": ("agents", "d"),
    "trees": ("trees", "d"),
    "us_per_sim": ("us/sim", ".1f"),
    "python_us_per_sim": ("Python us/sim", ".1f"),
    "bare_us_per_call": ("bare us/call", ".1f"),
    "sims_per_s": ("sims/s", ",.0f"),
    "expansions_per_s": ("expansions/s", ",.0f"),
    "tokens_per_s": ("tokens/s", ",.0f"),
    "engine_ceiling_expansions_per_s": ("engine's ceiling/s", ",.0f"),
    "ceiling_share": ("share of it", ".1%"),
    "mean_in_flight": ("mean in flight", ".1f"),
    "loop_lag_p99_ms": ("loop lag p99 ms", ".1f"),
    "num_collisions": ("collisions", "d"),
    "duplicate_rate": ("duplicate samples", ".1%"),
    "prefix_cache_hit_rate": ("prefix cache hits", ".1%"),
    "mean_depth": ("mean depth", ".1f"),
    "max_depth": ("max depth", "d"),
    "truncated_share": ("truncated", ".1%"),
    "solve_rate": ("solved", ".1%"),
    "one_agent_solve_rate": ("solved by one agent", ".1%"),
    "residual_in_flight": ("left in flight", "d"),
    "bytes_per_node": ("bytes/node", ".0f"),
    "peak_memory_mb": ("peak MB", ".0f"),
    "tree_hash": ("first tree", "s"),
}


def rows_table(rows: Sequence[Measurement]) -> Table:
    """One column a row, so that it fits a terminal."""
    first = rows[0]
    table = Table(title=f"{first.engine}: {first.simulations} simulations a tree, seed {first.seed}", box=None)
    table.add_column("")
    for _ in rows:
        table.add_column(justify="right")
    for name, (title, format_) in COLUMNS.items():
        values = [getattr(row, name) for row in rows]
        table.add_row(title, *("-" if value is None else format(value, format_) for value in values))
    return table


def recommendation(rows: Sequence[Measurement]) -> str:
    """The fewest agents, then the fewest trees, with nearly the best speed: agents on one tree cost solve rate."""
    best = max(row.expansions_per_s for row in rows)
    near = [row for row in rows if row.expansions_per_s >= NEAR_BEST * best]
    chosen = min(near, key=lambda row: (row.agents, row.trees))
    return (
        f"{chosen.agents} agents on each of {chosen.trees} trees: {chosen.expansions_per_s:,.0f} expansions/s, "
        f"{chosen.expansions_per_s / best:.0%} of the best here "
        f"(--set method.agents={chosen.agents} --set search.trees={chosen.trees})"
    )


def plot(rows: Sequence[Measurement], path: Path) -> None:
    """Solve rate against simulations, and expansions/s against agents. Raises ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'tsd[plot]'") from None
    figure = Figure(figsize=(10, 4), layout="constrained")
    solved, speed = figure.subplots(1, 2)
    for row in rows:
        curve = [sum(at <= n for at in row.solved_at) / row.problems for n in range(row.simulations + 1)]
        solved.plot(curve, label=f"{row.agents} agents, {row.trees} trees")
    solved.set(xlabel="simulations of a tree", ylabel="solve rate", ylim=(0, 1))
    solved.legend(fontsize="small")
    for trees in sorted({row.trees for row in rows}):
        own = sorted((row for row in rows if row.trees == trees), key=lambda row: row.agents)
        speed.plot([row.agents for row in own], [row.expansions_per_s for row in own], "o-", label=f"{trees} trees")
    speed.set(xlabel="agents on a tree", ylabel="expansions/s", ylim=(0, None))
    speed.legend(fontsize="small")
    figure.savefig(path)
