"""What a response is worth in training: rewards mixed by weight, and what that leaves alone."""

import asyncio
import math
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.answering import ANSWERS, PROBLEMS, AnsweringEngine, configured, measure
from tests.support.fakes import ScriptedEngine, VirtualClockLoop, step
from tests.support.launching import launched
from tests.support.runs import MOCK, SHORT, TSD, finish, summary, updates
from tsd.config import Config, PuctConfig, RewardConfig, SearchConfig, load_config, save_config
from tsd.engine.mock import CharCodec, MockEngine
from tsd.errors import TaskError
from tsd.search import Tree, plant, record, resume, search_by_puct, tree_hash
from tsd.tasks.countdown import Countdown, make_problem
from tsd.tasks.rewards import GROUP, Mix, load_rewards, make_grader
from tsd.trainer.trainer import mean_rewards
from tsd.types import Expansion, Grade, Grader, Problem

PROBLEM = make_problem((2, 3), 6)
EXACT, NEAR, ILLEGAL = "<answer>2*3</answer>", "<answer>2+3</answer>", "2*3"
NEAR_REWARD = 0.2 - 1 / 6


def half(problem: Problem, response: str, num_tokens: int, grade: Grade) -> float:
    """Registered by the tests; what it says of a wrong answer is out of bounds."""
    return 0.5 if grade.exact else 7.0


def failing(problem: Problem, response: str, num_tokens: int, grade: Grade) -> float:
    """Registered by the tests: gives what the response says, where that is a number at all."""
    return math.nan if response == "nan" else math.inf if response == "inf" else float(response)


NO_REWARD = "text"
REGISTERED = [
    EntryPoint(name, f"tests.test_rewards:{of}", GROUP)
    for name, of in (("half", "half"), ("failing", "failing"), ("gone", "absent"), ("text", "NO_REWARD"))
]


def weighed(weights: dict[str, float]) -> Config:
    return Config(reward=RewardConfig(weights=weights), search=SearchConfig(max_path_tokens=100))


def grader(weights: dict[str, float], report: Callable[[str], None] = print) -> Grader:
    found = make_grader(Countdown(), weighed(weights), report, REGISTERED)
    assert found is not None
    return found


def test_the_tasks_own_grade_is_left_alone_by_default() -> None:
    assert make_grader(Countdown(), Config(), print) is None
    assert msgspec.json.encode(Grade(0.5, False, True)) == b'{"reward":0.5,"exact":false,"well_formed":true}'


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        (EXACT, {"task": 1.0, "format": 1.0, "length": -0.25, "half": 0.5}),
        (NEAR, {"task": NEAR_REWARD, "format": 1.0, "length": -0.25, "half": 1.0}),
        (ILLEGAL, {"task": -1.0, "format": -1.0, "length": -0.25, "half": 1.0}),
    ],
)
def test_rewards_are_clipped_weighed_and_divided_by_the_weights(response: str, parts: dict[str, float]) -> None:
    grade = grader({"task": 2.0, "format": 0.5, "length": 1.0, "half": -0.5})(PROBLEM, response, 25)
    assert grade.parts == pytest.approx(parts)
    expected = (2 * parts["task"] + 0.5 * parts["format"] + parts["length"] - 0.5 * parts["half"]) / 4
    assert grade.reward == pytest.approx(expected)
    own = Countdown().grade(PROBLEM, response)
    assert (grade.exact, grade.well_formed) == (own.exact, own.well_formed)


def test_a_longer_response_is_worth_less_down_to_minus_one() -> None:
    worth = grader({"length": 1.0})
    assert [worth(PROBLEM, EXACT, num_tokens).reward for num_tokens in (0, 50, 100, 999)] == [0.0, -0.5, -1.0, -1.0]


def test_a_weight_of_zero_measures_without_counting() -> None:
    grade = grader({"task": 1.0, "format": 0.0})(PROBLEM, NEAR, 20)
    assert grade.reward == Countdown().grade(PROBLEM, NEAR).reward
    assert grade.parts == {"task": grade.reward, "format": 1.0}


weights_of_rewards = st.dictionaries(
    st.sampled_from(["task", "format", "length", "half", "failing"]), st.floats(-1e9, 1e9), min_size=1
).filter(lambda weights: any(weights.values()))


@given(weights_of_rewards, st.sampled_from([EXACT, NEAR, ILLEGAL, "nan", "inf", "9"]), st.integers(0, 200))
def test_the_mix_stays_within_bounds_whatever_the_weights(
    weights: dict[str, float], response: str, num_tokens: int
) -> None:
    grade = grader(weights)(PROBLEM, response, num_tokens)
    assert -1.0 <= grade.reward <= 1.0
    assert grade.parts.keys() == weights.keys()
    assert all(-1.0 <= part <= 1.0 for part in grade.parts.values())


@pytest.mark.parametrize("response", ["nan", "inf", "no number"])
def test_a_reward_that_fails_counts_as_minus_one_and_is_told_of_once(response: str) -> None:
    said: list[str] = []
    worth = grader({"failing": 1.0}, said.append)
    assert worth(PROBLEM, "0.5", 3).reward == 0.5
    assert [worth(PROBLEM, response, 3).reward for _ in range(3)] == [-1.0] * 3
    (line,) = said
    assert line.startswith(f"reward failing failed on {PROBLEM.id} and counts as -1.0: ValueError(")


def test_a_reward_that_hangs_ends_the_run() -> None:
    def hanging(problem: Problem, response: str, num_tokens: int, grade: Grade, /) -> float:
        while True:
            pass

    mix = Mix(Countdown(), {"hanging": hanging}, {"hanging": 1.0}, print, limit_s=0.05)
    with pytest.raises(TaskError, match=r"^reward hanging: not done after 0.05 s .* at .*test_rewards\.py:\d+; "):
        mix(PROBLEM, "0.5", 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lenght",
            "expected names out of exact, failing, format, gone, half, length, model, task, text, found 'lenght'",
        ),
        ("gone", "'gone' cannot be loaded from tests.test_rewards:absent: AttributeError"),
        ("text", "expected tests.test_rewards:NO_REWARD to be callable, found str"),
    ],
)
def test_a_reward_that_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^reward.weights: {message}"):
        load_rewards(weighed({"task": 1.0, name: 1.0}), REGISTERED)


@pytest.mark.parametrize("weights", ["{}", "{task=0}", "{task=nan}", "{task=1, length=inf}"])
def test_weights_that_give_no_mean_are_refused(weights: str) -> None:
    with pytest.raises(ValueError, match=r"weights: expected finite numbers, one of them not 0.*\$\.reward"):
        load_config(None, [f"reward.weights={weights}"])


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    config = load_config(None, ['reward.weights={task=1, "a \\"b\\".c"=-2.5e-7}'])
    assert config.reward.weights == {"task": 1.0, 'a "b".c': -2.5e-7}
    save_config(config, tmp_path / "saved.toml")
    assert load_config(tmp_path / "saved.toml") == config


def planted(config: Config, problem: Problem = PROBLEM) -> Tree:
    grade = make_grader(Countdown(), config, print, REGISTERED)
    return plant(problem, Countdown(), CharCodec(), "compact", config.search, grader=grade)


def grown(tree: Tree, *answers: str) -> str:
    """Each answer is one step from the root."""
    steps = tuple(step(*map(ord, answer), finish="end") for answer in answers)
    return asyncio.run(search_by_puct(tree, ScriptedEngine(lambda state: Expansion(0.0, steps)), PuctConfig(agents=1)))


def test_a_tree_is_solved_by_an_exact_answer_whatever_it_is_worth() -> None:
    for answer, weights, solved in (
        (EXACT, {"length": 1.0}, True),
        (EXACT, {"task": -1.0}, True),
        (NEAR, {"format": 1.0}, False),
        (NEAR, {"half": 1.0}, False),
    ):
        tree = planted(weighed(weights))
        assert grown(tree, answer) == ("solved" if solved else "exhausted")
        assert tree.solved == solved
        assert (tree.num_tokens_to_solve is not None) == solved
        (child,) = tree.root.make_children()
        assert (child.end_value == 1.0) == (not solved), "worth the most without solving, or the other way round"
        assert resume(record(tree), planted(weighed(weights))).solved == solved


def test_equal_answers_are_graded_each_by_its_own_length() -> None:
    for weights, num_rewards in (({"task": 1.0}, 1), ({"task": 1.0, "length": 1.0}, 2)):
        tree = planted(weighed(weights))
        grown(tree, NEAR, f"<step>2+3=5|5</step>{NEAR}")
        assert len({child.end_value for child in tree.root.make_children()}) == num_rewards


def test_search_is_the_same_where_only_the_task_counts() -> None:
    def found(weights: dict[str, float]) -> tuple[str, list[float]]:
        tree = planted(weighed(weights), make_problem((5, 13, 5, 9), 31))
        engine = MockEngine(solve_rate=0.3, latency_s=0.01)
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.run(search_by_puct(tree, engine, PuctConfig(simulations=60, solutions=0)))
        assert (b'"parts"' in msgspec.json.encode(record(tree))) == (len(weights) > 1)
        return tree_hash(tree), [node.end_value for node in tree.root.walk() if node.grade]

    assert found({"task": 1.0}) == found({"task": 1.0, "format": 0.0, "half": 0.0})


async def test_evaluation_does_not_depend_on_the_mix() -> None:
    results = [
        replace(await measure(AnsweringEngine(ANSWERS), PROBLEMS, configured(*settings)), seconds=0.0)
        for settings in ((), ("reward.weights={length=1}",))
    ]
    assert results[0] == results[1]


def test_means_are_taken_of_each_reward_over_those_that_have_it() -> None:
    def graded(**parts: float) -> Grade:
        return Grade(0.0, False, True, parts)

    grades = (graded(task=1.0, length=-0.5), graded(task=0.0, length=-0.25), graded(task=0.5))
    assert mean_rewards(grades) == {"length": -0.375, "task": 0.5}
    assert mean_rewards([graded()]) == {}


@pytest.mark.timeout(120)
def test_a_run_mixes_a_reward_that_a_package_registers(tmp_path: Path) -> None:
    """The package is a module and its metadata in a folder of their own."""
    package, run_dir = tmp_path / "package", tmp_path / "run"
    metadata = package / "shortness-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shortness\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nshortness = shortness:reward\n")
    (package / "shortness.py").write_text("def reward(problem, response, num_tokens, grade): return 1 / num_tokens")
    options = ("--set", "reward.weights={task=1, format=0.5, shortness=0}", "--max-updates", "2")
    command = ["env", f"PYTHONPATH={package}", *TSD, *MOCK, *SHORT, *options, "--run-dir", str(run_dir)]
    with launched(command) as run:
        finish(run, 100)
    for row in updates(run_dir):
        assert row.rewards.keys() == {"task", "format", "shortness"}
        assert 0 < row.rewards["shortness"] < 0.1
        assert row.reward_mean == pytest.approx((row.rewards["task"] + 0.5 * row.rewards["format"]) / 1.5)
    assert summary(run_dir)["num_updates"] == 2


def test_a_launch_refuses_an_unknown_reward_before_anything_starts(tmp_path: Path) -> None:
    options = ("--set", "reward.weights.lenght=1", "--run-dir", str(tmp_path / "run"))
    with launched([*TSD, *MOCK, *options]) as run:
        output, _ = run.process.communicate(timeout=50)
    assert run.process.returncode == 2
    assert output.startswith(
        "error: reward.weights: expected names out of exact, format, length, model, task, found 'lenght'"
    )
    assert len(output.splitlines()) == 1
    assert not (tmp_path / "run").exists()
