"""Countdown's problems, prompts and grades."""

import itertools
import json
import random
from fractions import Fraction

import pytest

from tsd.config import TaskConfig
from tsd.tasks.arithmetic import solve
from tsd.tasks.countdown import Countdown, make_problem, question, random_response, response
from tsd.types import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "heldout")


def test_splits_share_no_problem_whatever_the_order_of_numbers_or_the_seed() -> None:
    task = Countdown(TaskConfig(num_numbers=(3, 4)))
    keys = [
        {
            (tuple(sorted(question(problem).input)), question(problem).target)
            for seed in (0, 1)
            for problem in task.problems(split, 400, seed)
        }
        for split in SPLITS
    ]
    assert all(not a & b for a, b in itertools.combinations(keys, 2))


def test_a_split_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    task = Countdown()
    first, again, other = (list(task.problems("train", 50, seed)) for seed in (3, 3, 4))
    assert first == again != other


def test_every_generated_problem_is_solved_by_its_own_game_and_by_the_solver() -> None:
    task = Countdown(TaskConfig(num_numbers=(3, 4)))
    for problem, game in task.games("train", 40, 0):
        asked = question(problem)
        assert all(1 <= number <= 13 for number in asked.input)
        assert task.grade(problem, response(game)).exact
        assert next(solve(asked.input, asked.target))[-1].result.value == asked.target


def test_a_split_that_cannot_give_so_many_problems_says_so() -> None:
    with pytest.raises(ValueError, match="heldout problems of"):
        list(Countdown(TaskConfig(num_numbers=(2,))).problems("heldout", 400, 0))


def test_the_solver_finds_nothing_where_nothing_is() -> None:
    assert list(solve((1, 1, 1), 13)) == []
    assert next(solve((5, 5), 25))[-1].result.expression == "5*5"


@pytest.mark.parametrize(
    ("answer", "exact", "reward"),
    [
        ("(13+9)+5+4", False, -1.0),  # 4 is not given
        ("5+5+5+9", False, -1.0),  # 5 is given twice only
        ("5*5", False, 0.2 - 6 / 31),
        ("13+9+5+5", False, 0.2 - 1 / 31),
        ("13*9*5*5", False, -0.8),
        ("13+(9+5)", False, 0.2 - 4 / 31),
        ("(9*5)-13-5/5", False, -1.0),
        ("(13*5)-(9*5)", False, 0.2 - 11 / 31),
        ("9*5-13-5+4", False, -1.0),
        ("13+9+5+5-1", False, -1.0),
    ],
)
def test_grades_of_wrong_answers_fall_with_the_relative_error(answer: str, exact: bool, reward: float) -> None:
    grade = Countdown().grade(make_problem((5, 13, 5, 9), 31), f"<step>x</step><answer>{answer}</answer>")
    assert grade.exact is exact
    assert grade.reward == pytest.approx(reward)


def test_an_exact_fraction_on_the_way_counts() -> None:
    grade = Countdown().grade(make_problem((8, 3, 8, 3), 24), "<answer>8/(3-8/3)</answer>")
    assert grade.exact
    assert grade.reward == 1.0


def test_the_last_answer_is_graded_and_a_missing_tag_is_illegal() -> None:
    task, problem = Countdown(), make_problem((2, 3), 6)
    assert task.grade(problem, "<answer>2+3</answer><answer>2*3</answer>").exact
    for text in ("2*3", "<answer>2*3", "2*3</answer>", "</answer>2*3<answer>"):
        assert not task.grade(problem, text).well_formed


def test_the_reward_of_a_result_never_reaches_that_of_a_solution() -> None:
    problem = make_problem((1, 13), 10**6)
    assert Countdown().grade(problem, "<answer>13</answer>").reward == pytest.approx(
        0.2 - float(1 - Fraction(13, 10**6))
    )


def test_lines_are_read_in_the_published_form_and_refused_with_the_reason() -> None:
    task = Countdown()
    problem = task.parse('{"input":[5,13,5,9],"target":31}')
    assert question(problem).input == (5, 13, 5, 9)
    assert json.loads(problem.text) == {"input": [5, 13, 5, 9], "target": 31}
    bad = (
        "",
        "[]",
        '{"input":[5]}',
        '{"input":["5"],"target":3}',
        '{"input":[],"target":3}',
        '{"input":[5],"target":1.5}',
    )
    for line in (*bad, "\ud800"):
        with pytest.raises(ValueError, match="expected"):
            task.parse(line)


def test_prompts_hold_the_numbers_in_order_and_the_target() -> None:
    problem = make_problem((5, 13, 5, 9), 31)
    assert Countdown().prompt(problem, "compact") == "5 13 5 9=31:"
    chat = Countdown().prompt(problem, "chat")
    assert "5, 13, 5, 9" in chat
    assert "31" in chat


def test_random_responses_are_legal() -> None:
    task, rng = Countdown(), random.Random(0)
    for problem in task.problems("validation", 20, 0):
        assert task.grade(problem, random_response(problem, rng)).well_formed


@pytest.mark.parametrize(("split", "most"), [("heldout", 182_000), ("train", 3_276_000)])
def test_more_problems_than_there_can_be_are_refused_at_once(split: Split, most: int) -> None:
    with pytest.raises(ValueError, match=rf"at most {most:,} {split} problems of \(4,\) numbers, not 9,000,000"):
        next(Countdown().problems(split, 9_000_000, seed=0))
