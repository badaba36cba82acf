"""The baselines' samples: all of a group, or the best of many; the same pipeline learns from either."""

from collections.abc import Sequence

from tests.fakes import ScriptedEngine, step
from tsd.config import SampleConfig, SearchConfig
from tsd.search import Tree, sample_paths
from tsd.types import Expansion, Grade, Step

REWARDS = {1: -1.0, 2: 0.5, 3: 0.5, 4: 0.1}


class Sampler(ScriptedEngine):
    """Gives responses 1, 2, 3, 4, 1, ... of which 3 is likelier than 2."""

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        return tuple(step(1 + i % 4, finish="end", logprob=-0.5 if i % 4 == 2 else -1.0) for i in range(num_samples))


def grade(tokens: Sequence[int]) -> Grade:
    return Grade(REWARDS[tokens[0]], False, True)


async def test_a_group_is_sent_whole_and_the_best_of_many_alone() -> None:
    tree, engine = Tree((7,), grade, SearchConfig()), Sampler(lambda state: Expansion(0.0, ()))
    group = await sample_paths(tree, engine, "cispo", SampleConfig(group_size=6))
    assert [path.grade.reward for path in group] == [-1.0, 0.5, 0.5, 0.1, -1.0, 0.5]
    assert tree.num_generated == 6
    (best,) = await sample_paths(tree, engine, "best-of-n", SampleConfig(best_of=64))
    assert (best.grade.reward, best.steps[0].tokens) == (0.5, (3,))
    assert tree.num_generated == 70
    assert not engine.expanded


async def test_a_group_ends_at_its_budget_of_tokens_or_of_solutions() -> None:
    engine = Sampler(lambda state: Expansion(0.0, ()))

    async def group(solves: int, config: SampleConfig) -> list[int]:
        def solved_by(tokens: Sequence[int]) -> Grade:
            return Grade(REWARDS[tokens[0]], tokens[0] == solves, True)

        tree = Tree((7,), solved_by, SearchConfig())
        return [path.steps[0].tokens[0] for path in await sample_paths(tree, engine, "cispo", config)]

    assert len(await group(2, SampleConfig(max_tokens=3))) == 3
    assert len(await group(2, SampleConfig(group_size=5, max_tokens=99, solutions=1))) == 5, "it samples 1 alone"
    assert len(await group(1, SampleConfig(max_tokens=99, solutions=2))) == 2
