"""What V is worth: counts of solved paths and of tokens left, by depth and V."""

import random

import pytest

from tsd.search.calibration import Calibration, strength_of


def test_a_state_is_judged_by_the_paths_that_passed_its_like() -> None:
    calibration = Calibration()
    for solved in (True, True, False, True):
        calibration.add([0.5, 0.8, 0.9], [10, 20, 5], 1.0 if solved else -0.5, solved, fades=False)
    chance, tokens = calibration.judge(2, 0.8)
    # The whole counts as one path more: 3.2 of 6 paths were right, of 40 tokens each.
    assert chance == pytest.approx((3 + 3.2 / 6) / 5)
    assert tokens == pytest.approx((4 * 5 + 240 / 6) / 5)
    assert calibration.judge(2, 0.9)[0] == pytest.approx((0.5 * 3 + 3.2 / 6) / 3), "a neighbour counts half"
    assert calibration.judge(2, -0.5) == pytest.approx((3.2 / 6, 40.0)), "of what nobody has seen the whole says all"


def test_the_end_of_a_path_is_no_state() -> None:
    calibration = Calibration()
    calibration.add([0.5, 0.9], [10, 5], 1.0, True)
    assert list(calibration.states) == ["1 5"]


def test_old_paths_fade_when_the_policy_moves() -> None:
    calibration = Calibration()
    for number in range(4000):
        calibration.add([0.5, 1.0], [10, 5], 1.0, number >= 2000)
    assert calibration.judge(1, 0.5)[0] > 0.99
    assert calibration.solve_rate == pytest.approx((1 - 0.999**2000) / (1 - 0.999**4000), abs=0.005)


def test_fading_keeps_the_rates_and_counts_for_less() -> None:
    calibration = Calibration()
    for number in range(1000):
        calibration.add([0.5, 1.0], [10, 5], 1.0, number % 4 == 0, fades=False)
    before, rate = calibration.states["1 5"].num_paths, calibration.solve_rate
    calibration.fade(100)
    assert calibration.paths.num_paths == pytest.approx(100)
    assert calibration.states["1 5"].num_paths == pytest.approx(before * 100 / 1002)
    assert calibration.solve_rate == pytest.approx(rate)


def test_it_says_what_v_explains_of_rewards_after_each_step() -> None:
    calibration, rng = Calibration(), random.Random(0)
    for _ in range(3000):
        reward = rng.choice([-1.0, 1.0])
        # Nothing after the first step, half of the variance after the second, all of it after the third.
        values = [0.0, reward + rng.choice([-1, 1]) * 0.5**0.5, reward, 0.3]
        calibration.add(values, [5] * 4, reward, reward > 0)
    assert calibration.explained == pytest.approx((0.0, 0.5, 1.0), abs=0.01)


def test_strength_is_that_of_the_distribution_of_solve_rates() -> None:
    rng = random.Random(0)
    rates = [rng.betavariate(1.0, 4.0) for _ in range(4000)]
    num_solved = [sum(rng.random() < rate for _ in range(32)) for rate in rates]
    assert strength_of(num_solved, 32) == pytest.approx(5.0, rel=0.1)
