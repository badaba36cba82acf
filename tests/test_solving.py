"""Solving against tokens: search, samples, and choices among samples, on the mock engine."""

from pathlib import Path

import pytest

from tsd.config import Config, load_config
from tsd.engine import Generation, make_engine
from tsd.search import Calibration
from tsd.search.calibration import keep_newest, load_calibration, save_calibration
from tsd.solve import compare_solving, solving_table
from tsd.solve.calibrate import calibrate
from tsd.solve.solving import WAYS, Attempt, summarise
from tsd.tasks import make_task

SETTINGS = ("engine.kind=mock", "engine.mock_solve_rate=0.1", "method.max_tokens=600", "method.solutions=1")
CONFIG = load_config(None, SETTINGS)


def generation(config: Config = CONFIG) -> Generation:
    return make_engine(config, None, temperature=1.0, seed=0)


def test_solutions_per_token_are_of_all_problems_together() -> None:
    row = summarise("a way", [Attempt(True, 100), Attempt(False, 300), Attempt(True, 100)])
    assert row.num_problems == 3
    assert (row.solved, row.tokens) == pytest.approx((2 / 3, 500 / 3))
    assert row.per_1000_tokens == pytest.approx(4.0)
    low, high = row.ci95
    assert low < 4.0 < high


@pytest.mark.timeout(90)
async def test_search_with_a_calibrated_v_solves_more_per_token_than_samples() -> None:
    task = make_task(CONFIG.task)
    engine = generation()
    problems = list(task.problems("validation", 40, 0))
    async with engine.engine:
        calibration = await calibrate(engine, task, CONFIG)
        assert max(calibration.explained) > 0.1, "the mock engine's V sees"
        rows = await compare_solving(engine, task, problems, CONFIG, calibration, agents=(1, 16))
    samples, _, best, majority, _, alone, many = rows
    assert [row.way for row in rows] == [*WAYS[:-1], "search, agents: 1", "search, agents: 16"]
    assert alone.ci95[0] > samples.ci95[1], "intervals apart"
    assert many.per_1000_tokens > 0.8 * alone.per_1000_tokens
    assert best.num_problems == majority.num_problems == 40
    table = solving_table(rows)
    assert f"ratio, search, agents: 1: {alone.per_1000_tokens / samples.per_1000_tokens:.2f}" in table


async def test_what_gives_up_costs_less() -> None:
    task, config = make_task(CONFIG.task), load_config(None, [*SETTINGS, "method.give_up=0.9"])
    engine = generation()
    problems = list(task.problems("validation", 40, 0))
    async with engine.engine:
        calibration = await calibrate(engine, task, CONFIG)
        ways = ("samples", "samples that give up", "search to the end", "search")
        rows = await compare_solving(engine, task, problems, config, calibration, ways=ways)
    for to_the_end, giving_up in (rows[:2], rows[2:]):
        assert giving_up.tokens < to_the_end.tokens


async def test_a_calibration_is_what_a_plain_count_says() -> None:
    task = make_task(CONFIG.task)
    engine = generation()
    async with engine.engine:
        calibration = await calibrate(engine, task, CONFIG)
    assert calibration.paths.num_paths == pytest.approx(2 + 250 * 32)
    assert 0.02 < calibration.solve_rate < 0.6
    reachable, lost = calibration.judge(2, 0.5)[0], calibration.judge(2, -0.5)[0]
    assert lost < 0.01 < 0.1 < reachable


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert load_calibration(None) == load_calibration(tmp_path) == Calibration()
    written = Calibration()
    written.add([0.5, 0.9], [10, 5], 1.0, True)
    save_calibration(written, tmp_path / "calibration-0.json")
    keep_newest(tmp_path, tmp_path)
    assert load_calibration(tmp_path) == written
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(ValueError, match=r"is no calibration: .*delete it"):
        load_calibration(tmp_path)
