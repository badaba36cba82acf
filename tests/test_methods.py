"""Methods: what each collects from a problem, and what it has the tokens of that learn."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.fakes import ScriptedEngine, step
from tests.support.searching import LIMITS
from tests.support.trajectories import make_trajectory
from tsd.config import BestOfConfig, GroupsConfig, MethodConfig, PuctConfig, load_config
from tsd.methods import make_method
from tsd.search import Tree
from tsd.types import Expansion, Grade, Step, Trajectory

REWARDS = {1: -1.0, 2: 0.5, 3: 0.5, 4: 0.1}


class Sampler(ScriptedEngine):
    """Gives responses 1, 2, 3, 4, 1, ... of which 3 is likelier than 2."""

    def __init__(self) -> None:
        super().__init__(lambda state: Expansion(0.0, ()))

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        return tuple(step(1 + i % 4, finish="end", logprob=-0.5 if i % 4 == 2 else -1.0) for i in range(num_samples))


def make_tree(solves: int = 0) -> Tree:
    return Tree((7,), lambda tokens: Grade(REWARDS[tokens[0]], tokens[0] == solves, True), LIMITS)


async def test_a_group_is_sent_whole_and_the_best_of_many_alone() -> None:
    tree, engine = make_tree(), Sampler()
    group = await make_method(GroupsConfig(num_samples=6)).collect(tree, engine)
    assert [path.grade.reward for path in group] == [-1.0, 0.5, 0.5, 0.1, -1.0, 0.5]
    assert tree.num_generated == 6
    tree = make_tree()
    (best,) = await make_method(BestOfConfig(num_samples=64)).collect(tree, engine)
    assert (best.grade.reward, best.tokens.tolist()) == (0.5, [3])
    assert tree.num_generated == 64
    assert not engine.expanded


@pytest.mark.parametrize(
    ("config", "solves", "expected"),
    [
        (GroupsConfig(max_tokens=3), 2, 3),
        (GroupsConfig(num_samples=5, max_tokens=99, solutions=1), 2, 5),  # it samples 1 alone
        (GroupsConfig(max_tokens=99, solutions=2), 1, 2),
    ],
)
async def test_a_group_ends_at_its_budget_of_tokens_or_of_solutions(
    config: GroupsConfig, solves: int, expected: int
) -> None:
    assert len(await make_method(config).collect(make_tree(solves), Sampler())) == expected


async def test_the_published_method_sends_the_most_visited_path_to_its_end() -> None:
    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.5 if 2 in state else -0.5, (step(1, value=-0.5), step(2, value=0.5)))

    tree, engine = make_tree(), ScriptedEngine(script)
    tree.grade = lambda tokens: Grade(0.25, False, True)
    (path,) = await make_method(PuctConfig(agents=1, simulations=9, solutions=0)).collect(tree, engine)
    assert path.tokens[0] == 2
    assert path.visits[0] == max(child.visits for child in tree.root.make_children())
    assert path.grade.reward == path.q[-1] == 0.25


def make_group(*rewards: float) -> list[Trajectory]:
    values = np.array([0.1, 0.2, 0.3], np.float32)
    return [
        make_trajectory(i, [3], group="g", values=values, grade=Grade(reward, False, True))
        for i, reward in enumerate(rewards)
    ]


@pytest.mark.parametrize("config", [PuctConfig(), BestOfConfig()])
def test_a_path_learns_its_reward_everywhere_and_the_policy_what_v_did_not_foresee(config: MethodConfig) -> None:
    (wanted,) = make_method(config).targets(make_group(0.75))
    assert wanted.returns.tolist() == [0.75] * 3
    assert wanted.advantages.tolist() == pytest.approx([0.65, 0.55, 0.45])


def test_a_groups_members_are_compared_with_each_other() -> None:
    first, second = make_method(GroupsConfig()).targets(make_group(1.0, -1.0))
    half = math.sqrt(2) / 2
    assert first.advantages.tolist() == pytest.approx([half] * 3, abs=1e-3)
    assert second.advantages.tolist() == pytest.approx([-half] * 3, abs=1e-3)
    assert second.returns.tolist() == [-1.0] * 3


def test_a_group_that_is_all_alike_or_of_one_teaches_the_policy_nothing() -> None:
    for group in (make_group(0.5, 0.5), make_group(1.0)):
        assert all(not wanted.advantages.any() for wanted in make_method(GroupsConfig()).targets(group))


@pytest.mark.parametrize("kind", ["index", "puct", "groups", "best-of-n"])
def test_every_method_has_an_advantage_for_its_tokens(kind: str) -> None:
    """No combination of settings leaves a method without what it learns from."""
    method = make_method(load_config(None, [f"method.kind={kind}"]).method)
    group = [make_trajectory(i, [2, 3], group="g", grade=Grade(reward, False, True)) for i, reward in ((0, 1), (1, -1))]
    assert all(wanted.advantages.any() for wanted in method.targets(group))
