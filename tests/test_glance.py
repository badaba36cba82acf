"""A tree at a glance, while it grows."""

from tsd.config import PuctConfig, SearchConfig
from tsd.engine.mock import CharCodec, MockEngine
from tsd.search import glance, plant, search_by_puct
from tsd.tasks.countdown import Countdown


async def test_a_glance_shows_the_most_visited_path_and_the_best_of_the_rest() -> None:
    limits, task, codec = SearchConfig(), Countdown(), CharCodec()
    tree = plant(task.parse("5 13 5 9 = 31"), task, codec, "compact", limits)
    way = PuctConfig(simulations=60, agents=4, solutions=0)
    await search_by_puct(tree, MockEngine(solve_rate=0.3, seed=1), way)
    seen = glance(tree, codec.decode)
    assert (seen.prompt, seen.num_simulations, seen.num_nodes) == ("5 13 5 9=31:", tree.num_simulations, tree.num_nodes)
    assert (seen.max_simulations, seen.max_tokens, seen.num_generated) == (60, 0, tree.num_generated)
    path = [step for step in seen.steps if step.on_path]
    assert [step.depth for step in path] == list(range(1, len(path) + 1))
    first = max(tree.root.make_children(), key=lambda child: child.visits)
    assert (path[0].visits, path[0].q) == (first.visits, first.q)
    for step in path:
        others = [other for other in seen.steps if other.depth == step.depth and not other.on_path]
        assert len(others) <= 2
        assert all(other.visits <= step.visits for other in others)
    assert glance(plant(task.parse("5 13 = 18"), task, codec, "compact", limits), codec.decode).steps == ()
