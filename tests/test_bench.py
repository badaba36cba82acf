"""bench-search on the engines without a model: exact counts, nothing left in flight, one seed one tree."""

import asyncio
import io
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from tsd.config import Config, load_config
from tsd.solve import Measurement, bench_search, plot, recommendation, rows_table


def configured(engine: str, seed: int = 0) -> Config:
    return load_config(None, [f"engine.kind={engine}", f"seed={seed}", "method.kind=puct", "method.simulations=120"])


async def measure(engine: str, agents: int, trees: int = 1, seed: int = 0) -> Measurement:
    (row,) = await bench_search(configured(engine, seed), [agents], [trees])
    return row


@pytest.mark.parametrize("engine", ["null", "mock"])
async def test_there_is_a_row_for_each_number_of_agents_and_trees(engine: str) -> None:
    rows = await bench_search(configured(engine), [1, 16], [1, 3])
    assert [(row.agents, row.trees) for row in rows] == [(1, 1), (1, 3), (16, 1), (16, 3)]
    for row in rows:
        assert row.residual_in_flight == 0
        assert 0 < row.num_simulations <= 120 * row.trees
        assert row.us_per_sim == pytest.approx(1e6 / row.sims_per_s)
        assert row.ceiling_share == pytest.approx(row.expansions_per_s / row.engine_ceiling_expansions_per_s)
        assert row.bare_us_per_call == pytest.approx(1e6 / row.engine_ceiling_expansions_per_s)
        assert (row.one_agent_solve_rate is None) == (engine == "null" or row.agents == 1)
        assert 0 < row.bytes_per_node < 1024


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
    assert (await measure("null", 16)).tree_hash != (await measure("null", 1)).tree_hash


async def test_a_row_may_search_more_problems_than_trees_at_once_and_says_when_each_was_solved() -> None:
    (row,) = await bench_search(configured("mock"), [4], [2], problems=12)
    assert (row.problems, row.trees) == (12, 2)
    assert len(row.solved_at) == round(row.solve_rate * 12)
    assert all(1 <= at <= 120 for at in row.solved_at)


async def test_the_advice_is_the_fewest_agents_with_nearly_the_best_speed(tmp_path: Path) -> None:
    rows = await bench_search(configured("mock"), [1, 2], [1, 2])
    speeds = {(1, 1): 50.0, (1, 2): 96.0, (2, 1): 97.0, (2, 2): 100.0}
    fixed = [replace(row, expansions_per_s=speeds[row.agents, row.trees]) for row in rows]
    assert recommendation(fixed).startswith("1 agents on each of 2 trees: 96 expansions/s, 96% of the best")
    console = Console(width=120, file=io.StringIO())
    console.print(rows_table(fixed))
    assert "solved by one agent" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_picture_is_drawn_from_the_rows(tmp_path: Path) -> None:
    rows = asyncio.run(bench_search(configured("mock"), [1, 4], [1], problems=4))
    plot(rows, tmp_path / "bench.svg")
    assert "solve rate" in (tmp_path / "bench.svg").read_text() or (tmp_path / "bench.svg").stat().st_size > 5_000
