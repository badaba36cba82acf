"""bench-search on the engines without a model: exact counts, nothing left in flight, one seed one tree."""

import msgspec
import pytest

from tsd.bench import Row, bench_search
from tsd.config import Config, load_config

FIELDS = {
    "engine",
    "agents",
    "trees",
    "simulations",
    "seed",
    "us_per_sim",
    "sims_per_s",
    "expansions_per_s",
    "tokens_per_s",
    "engine_ceiling_expansions_per_s",
    "ceiling_share",
    "num_simulations",
    "num_collisions",
    "num_duplicates",
    "solve_rate",
    "residual_in_flight",
    "peak_memory_mb",
    "tree_hash",
}


def configured(engine: str, seed: int = 0) -> Config:
    return load_config(None, [f"engine.kind={engine}", f"seed={seed}", "search.simulations=120"])


async def measure(engine: str, agents: int, trees: int = 1, seed: int = 0) -> Row:
    (row,) = await bench_search(configured(engine, seed), [agents], [trees])
    return row


@pytest.mark.parametrize("engine", ["null", "mock"])
async def test_there_is_a_row_for_each_number_of_agents_and_trees(engine: str) -> None:
    rows = await bench_search(configured(engine), [1, 16], [1, 3])
    assert [(row.agents, row.trees) for row in rows] == [(1, 1), (1, 3), (16, 1), (16, 3)]
    for row in rows:
        assert set(msgspec.to_builtins(row)) == FIELDS
        assert row.residual_in_flight == 0
        assert 0 < row.num_simulations <= 120 * row.trees
        assert row.us_per_sim == pytest.approx(1e6 / row.sims_per_s)
        assert row.ceiling_share == pytest.approx(row.expansions_per_s / row.engine_ceiling_expansions_per_s)


@pytest.mark.parametrize("agents", [1, 16])
async def test_search_on_the_null_engine_uses_its_whole_budget_and_repeats_no_step(agents: int) -> None:
    row = await measure("null", agents, trees=2)
    assert row.num_simulations == 240
    assert (row.num_duplicates, row.solve_rate) == (0, 0.0)


async def test_the_mock_engine_solves_a_problem_with_so_many_simulations() -> None:
    assert (await measure("mock", 16, trees=4)).solve_rate > 0


@pytest.mark.parametrize("engine", ["null", "mock"])
@pytest.mark.parametrize("agents", [1, 16])
async def test_the_same_seed_gives_the_same_tree(engine: str, agents: int) -> None:
    first, again = await measure(engine, agents), await measure(engine, agents)
    assert first.tree_hash == again.tree_hash


async def test_another_seed_gives_another_tree() -> None:
    assert (await measure("mock", 16)).tree_hash != (await measure("mock", 16, seed=1)).tree_hash


async def test_other_agents_grow_another_tree() -> None:
    assert (await measure("mock", 16)).tree_hash != (await measure("mock", 1)).tree_hash
