"""mean@k and its companions: by hand on scripted answers, and on the mock engine."""

import math
from collections.abc import Sequence

import msgspec
import pytest

from tests.support.answering import ANSWERS, PROBLEMS, AnsweringEngine, configured, measure
from tsd.config import load_config
from tsd.engine import Generation
from tsd.engine.mock import CharCodec, MockEngine
from tsd.errors import EngineError
from tsd.model.files import model_path
from tsd.solve.evaluate import NUM_IN_FLIGHT, evaluate, evaluation_engine, interval
from tsd.solve.solve import make_solver
from tsd.tasks.countdown import Countdown
from tsd.types import Step


async def test_the_figures_are_those_worked_out_by_hand() -> None:
    result = await measure(AnsweringEngine(ANSWERS), PROBLEMS, configured("evaluate.temperature=0.7"))
    assert result.mean_at_k == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert result.pass_at_k == pytest.approx(2 / 3)
    assert result.format_rate == pytest.approx((4 + 3 + 0) / 12)
    near = 0.2 - 1 / 6
    assert result.mean_reward == pytest.approx((4 * 1 + (1 + 2 * near - 1) + 4 * -1) / 12)
    assert result.generated_tokens == sum(len(text) for texts in ANSWERS.values() for text in texts)
    assert (result.k, result.num_problems, result.temperature) == (4, 3, 0.7)


def test_top_p_is_an_evaluations_alone_and_never_a_searchs() -> None:
    config = load_config(None, ["evaluate.top_p=0.5"])
    directory = model_path(config.model.path)
    assert vars(evaluation_engine(config, directory).engine)["top_p"] == 0.5
    assert vars(make_solver(config).generation.engine)["top_p"] == 1.0


async def test_progress_is_told_after_each_problem_and_ends_in_the_result() -> None:
    told: list[tuple[int, float, tuple[float, float]]] = []
    generation = Generation(AnsweringEngine(ANSWERS), CharCodec())
    result = await evaluate(generation, Countdown(), PROBLEMS, configured(), lambda *one: told.append(one))
    assert [num_done for num_done, *_ in told] == [1, 2, 3]
    assert told[0][1:] == (1.0, (0.0, 1.0))
    assert told[-1][1:] == (result.mean_at_k, result.ci95)


async def test_samples_may_be_as_long_as_a_path_and_the_model_allow() -> None:
    engine = AnsweringEngine(ANSWERS)
    await measure(engine, PROBLEMS[:1], configured("search.max_path_tokens=40"))
    await measure(engine, PROBLEMS[:1], configured("search.max_path_tokens=40", "engine.max_model_tokens=30"))
    assert engine.asked == [(4, 40), (4, 30 - len("2 3=6:"))]


def test_the_interval_is_the_normal_one_over_problems_within_0_and_1() -> None:
    # The standard deviation of 0.4 and 0.6 is sqrt(0.02), the error of their mean sqrt(0.01).
    assert interval([0.4, 0.6]) == pytest.approx((0.5 - 1.96 * 0.1, 0.5 + 1.96 * 0.1))
    assert interval([0.25] * 5) == (0.25, 0.25)
    assert interval([0.0, 0.0, 0.0, 1.0])[0] == 0.0
    assert interval([1.0, 1.0, 1.0, 0.0])[1] == 1.0
    assert interval([0.5]) == (0.0, 1.0)


def test_the_interval_narrows_with_the_square_root_of_the_problems() -> None:
    def width(means: list[float]) -> float:
        low, high = interval(means)
        return high - low

    assert width([0.2, 0.4] * 50) / width([0.2, 0.4] * 200) == pytest.approx(math.sqrt(399 / 99))


async def test_every_problem_is_answered_once_however_many_there_are() -> None:
    problems = list(Countdown().problems("validation", NUM_IN_FLIGHT * 2 + 3, 0))
    result = await measure(MockEngine(solve_rate=0.3), problems, configured())
    assert result.num_problems == len(problems)


async def test_the_mock_engine_is_as_good_as_it_is_told_and_the_same_for_the_same_seed() -> None:
    problems = list(Countdown().problems("validation", 30, 0))
    results = {rate: await measure(MockEngine(solve_rate=rate, seed=1), problems, configured()) for rate in (0, 0.5, 1)}
    assert results[0].mean_at_k < results[0.5].mean_at_k < results[1].mean_at_k == 1.0
    again = await measure(MockEngine(solve_rate=0.5, seed=1), problems, configured())
    assert msgspec.structs.replace(again, seconds=0.0) == msgspec.structs.replace(results[0.5], seconds=0.0)


async def test_an_engine_that_dies_ends_the_evaluation() -> None:
    class Dying(AnsweringEngine):
        async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
            raise EngineError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        await measure(Dying(ANSWERS), PROBLEMS, configured())
    assert caught.group_contains(EngineError, match="gone")
