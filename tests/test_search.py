"""Search on scripted engines: exact counts, correct under parallelism, the same for the same seed."""

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from weakref import ref

import pytest
from msgspec.structs import replace

from tests.support.fakes import ScriptedEngine, VirtualClockLoop, step
from tests.support.searching import ALONE, LIMITS, check_counts, make_grade, make_tree, run_search
from tsd.config import PuctConfig, SearchConfig
from tsd.engine.mock import CharCodec, MockEngine
from tsd.search import (
    Node,
    Status,
    Tree,
    best_rewarded,
    most_visited,
    plant,
    search_by_puct,
    tree_hash,
)
from tsd.search.hot import descend
from tsd.search.prior import set_priors
from tsd.search.puct import simulate
from tsd.tasks.countdown import Countdown, make_problem
from tsd.types import Expansion, Grade, Problem, Step

GOLDEN = Path(__file__).parent / "golden_tree.json"


def binary(state: tuple[int, ...]) -> Expansion:
    """Two different steps from everywhere, and a value that tells states apart."""
    return Expansion(value=math.sin(sum(state)), steps=(step(1), step(2)))


def countdown_tree(problem: Problem) -> Tree:
    return plant(problem, Countdown(), CharCodec(), "compact", SearchConfig())


def test_each_simulation_is_one_expansion_and_its_value_counts_once_in_every_ancestor() -> None:
    tree, engine = make_tree(), ScriptedEngine(binary)
    assert run_search(tree, engine) == "simulations"
    assert (tree.num_simulations, tree.num_expansions, len(engine.expanded)) == (8, 8, 8)
    assert len(set(engine.expanded)) == 8
    assert tree.root.visits == 8
    assert tree.root.value_sum == pytest.approx(sum(math.sin(sum(state)) for state in engine.expanded))
    check_counts(tree)


@pytest.mark.parametrize("virtual_loss", [0.0, 1.0])
@pytest.mark.parametrize("agents", [2, 16])
def test_many_agents_leave_nothing_in_flight_and_count_everything_once(virtual_loss: float, agents: int) -> None:
    way = replace(ALONE, agents=agents, simulations=200, virtual_loss=virtual_loss)
    tree, engine = make_tree(replace(LIMITS, max_depth=20)), ScriptedEngine(binary, latency_s=1.0)
    run_search(tree, engine, way)
    assert tree.root.visits == tree.num_simulations == 200
    assert len(engine.expanded) == len(set(engine.expanded)), "a state was expanded twice"
    assert 1 < engine.most_in_flight <= agents
    check_counts(tree)


def test_an_agent_waits_for_a_state_being_expanded_and_then_descends() -> None:
    way = replace(ALONE, agents=2, simulations=2)
    tree, engine = make_tree(), ScriptedEngine(binary, latency_s=1.0)
    run_search(tree, engine, way)
    assert tree.num_collisions == 1
    assert engine.expanded[0] == (7,)
    assert len(engine.expanded[1]) == 2
    check_counts(tree)


def test_ends_are_graded_once_on_creation_and_never_sent_to_the_engine() -> None:
    grades: list[tuple[int, ...]] = []

    def grade(tokens: Sequence[int]) -> Grade:
        grades.append(tuple(tokens))
        return make_grade(0.5)

    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.0, (step(1), step(5, finish="end")))

    way = replace(ALONE, agents=4, simulations=60)
    tree, engine = Tree((7,), grade, LIMITS), ScriptedEngine(script)
    run_search(tree, engine, way)
    assert len(grades) == len(set(grades))
    assert all(5 not in state for state in engine.expanded)
    check_counts(tree)


def test_a_tree_with_nothing_left_to_search_ends_and_one_that_is_solved_may() -> None:
    def ends(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.0, (step(1, finish="end"), step(2, finish="end")))

    way = replace(ALONE, simulations=1000, agents=4)
    exhausted = make_tree()
    assert run_search(exhausted, ScriptedEngine(ends), way) == "exhausted"
    assert exhausted.num_expansions == 1
    way = replace(ALONE, simulations=1000, solutions=1)
    assert run_search(make_tree(reward=1.0), ScriptedEngine(ends), way) == "solved"


def test_limits_of_depth_step_path_and_tokens_hold_and_cut_paths_are_worth_the_worst_reward() -> None:
    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.0, (step(1, 1, finish="length"), step(2, 2)))

    way = replace(ALONE, simulations=100)
    tree = make_tree(replace(LIMITS, max_path_tokens=6, max_depth=50))
    assert run_search(tree, ScriptedEngine(script), way) == "exhausted"
    cut = [node for node in tree.root.walk() if node.status is Status.TRUNCATED]
    assert {node.q for node in cut} == {-1.0}
    assert max(node.num_path_tokens for node in tree.root.walk()) == 6
    shallow = make_tree(replace(LIMITS, max_depth=3))
    run_search(shallow, ScriptedEngine(binary), way)
    assert max(node.depth for node in shallow.root.walk()) == 3
    way = replace(way, max_tokens=7)
    thrifty = make_tree()
    assert run_search(thrifty, ScriptedEngine(binary), way) == "tokens"
    assert thrifty.num_generated == 8


def test_a_sampled_step_becomes_a_node_when_search_comes_to_it_the_one_of_highest_v_first() -> None:
    values = (0.1, 0.9, 0.2, 0.9)
    way = replace(ALONE, simulations=3)
    tree, asked = make_tree(), Expansion(1.0, tuple(step(i, value=values[i]) for i in range(4)))
    run_search(tree, ScriptedEngine(lambda state: asked), way)
    root = tree.root
    assert [child.step and child.step.tokens for child in root.made] == [(1,), (3,)], "of equals the first drawn first"
    assert (tree.num_nodes, len(root.untouched or ())) == (13, 2)
    assert [(child.step and child.step.tokens, child.q) for child in root.make_children()[2:]] == [
        ((2,), 0.2),
        ((0,), 0.1),
    ]
    assert [(child.prior, child.born) for child in root.make_children()] == [(0.25, 0)] * 4
    assert root.untouched is None


def test_equal_samples_become_one_child_with_their_prior_added() -> None:
    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.0, (step(1), step(2), step(1), step(1)))

    tree = make_tree()
    run_search(tree, ScriptedEngine(script), replace(ALONE, simulations=1))
    assert [(child.step and child.step.tokens, child.prior) for child in tree.root.make_children()] == [
        ((1,), 0.75),
        ((2,), 0.25),
    ]
    assert tree.num_duplicates == 2


def node(
    parent: Node | None, prior: float, visits: int, mean: float, in_flight: int = 0, of: Step | None = None
) -> Node:
    made = Node(ref(parent) if parent else None, of or step(1), prior, visits, visits + in_flight)
    made.depth = made.num_path_tokens = 1
    made.value_sum, made.mean = mean * visits, mean
    if parent is not None:
        parent.made = [*parent.made, made]
    return made


def priors(kind: str, *steps: Step) -> list[float]:
    children = [node(None, 0.0, 0, 0.0, of=one) for one in steps]
    set_priors(children, kind)  # type: ignore[arg-type]
    return [child.prior for child in children]


def test_priors_by_probability_and_by_probability_per_token() -> None:
    short, long = step(1, logprob=-1.5), step(1, 2, logprob=-1.0)
    assert priors("softmax", short, long) == pytest.approx([math.e**0.5 / (1 + math.e**0.5), 1 / (1 + math.e**0.5)])
    # Per token the long one is likelier.
    assert priors("length-normalised", short, long) == pytest.approx(
        [1 / (1 + math.exp(0.5)), math.exp(0.5) / (1 + math.exp(0.5))]
    )


def selected(tree: Tree, c_puct: float = 1.5, virtual_loss: float = 0.0) -> Node:
    """Where a simulation that stands at the root goes next."""
    tree.root.passed += 1
    path = [tree.root]
    descend(path, c_puct, virtual_loss)
    tree.unmark(path)
    return path[1]


def test_selection_follows_the_formula() -> None:
    for wins in range(3):
        tree = make_tree()
        # The root has been evaluated once itself, and passed on its other visits.
        tree.root.visits = tree.root.passed = 11
        means = [0.3, 0.1, -0.1]
        means[wins] += 1.0
        a, b = node(tree.root, 0.6, 8, means[0]), node(tree.root, 0.3, 2, means[1])
        c = node(tree.root, 0.1, 0, means[2])  # not visited: its V as its last token was sampled
        root10 = math.sqrt(10)
        scores = {
            a: means[0] + 0.6 * root10 / 9,
            b: means[1] + 0.3 * root10 / 3,
            c: means[2] + 0.1 * root10 / 1,
        }
        assert selected(tree, c_puct=1.0) is max(scores, key=lambda child: scores[child]) is (a, b, c)[wins]


def test_a_visit_in_flight_never_makes_a_child_look_better() -> None:
    for virtual_loss in (0.0, 1.0):
        for mean in (-0.9, -0.5, 0.0, 0.7):
            tree = make_tree()
            tree.root.visits = tree.root.passed = 9
            node(tree.root, 0.5, 4, mean, in_flight=3)
            idle = node(tree.root, 0.5, 4, mean)
            assert selected(tree, virtual_loss=virtual_loss) is idle


def test_virtual_loss_weighs_each_visit_in_flight_as_one_lost() -> None:
    """With Q = -0.5 over 4 visits and one in flight: (-2 - 1) / 5 = -0.6."""
    for other, expected in ((-0.59, 1), (-0.61, 0)):
        tree = make_tree()
        tree.root.visits = tree.root.passed = 9
        children = node(tree.root, 0.5, 4, -0.5, in_flight=1), node(tree.root, 0.5, 4, other)
        assert selected(tree, c_puct=0.0, virtual_loss=1.0) is children[expected]


def test_a_failed_or_cancelled_expansion_leaves_nothing_in_flight_and_others_go_on() -> None:
    failures = iter([True, False, False, False])

    def script(state: tuple[int, ...]) -> Expansion:
        if next(failures):
            raise RuntimeError("engine hiccup")
        return binary(state)

    async def run() -> None:
        tree, engine = make_tree(), ScriptedEngine(script, latency_s=1.0)
        first = asyncio.ensure_future(simulate(tree, engine, ALONE))
        second = asyncio.ensure_future(simulate(tree, engine, ALONE))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(results[0], RuntimeError)
        assert results[1] is None
        assert tree.root.visits == 1
        check_counts(tree)
        third = asyncio.ensure_future(simulate(tree, engine, ALONE))
        await asyncio.sleep(0.5)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert engine.num_cancelled == 1
        check_counts(tree)

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(run())


def test_harvest_takes_the_best_end_and_finishes_and_grades_a_path_that_is_not_finished() -> None:
    rewards: dict[tuple[int, ...], float] = {(1, 5): -0.5, (2, 5): 0.9}

    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.0, (step(1), step(2))) if len(state) == 1 else Expansion(0.0, (step(5, finish="end"),))

    way = replace(ALONE, simulations=50)
    tree = Tree((7,), lambda tokens: make_grade(rewards[tuple(tokens)]), LIMITS)
    engine = ScriptedEngine(script)
    run_search(tree, engine, way)
    best = asyncio.run(best_rewarded(tree, engine))
    assert (best.grade.reward, best.tokens.tolist(), best.lengths.tolist()) == (0.9, [2, 5], [1, 1])
    unfinished = make_tree(reward=0.25)
    run_search(unfinished, ScriptedEngine(binary), replace(ALONE, simulations=3))
    for harvest in (most_visited, best_rewarded):
        path = asyncio.run(harvest(unfinished, engine))
        assert path.grade.reward == path.q[-1] == 0.25
        assert path.parents.tolist() == [*range(-1, len(path.lengths) - 1)]


def mock_tree(agents: int, seed: int = 0) -> Tree:
    way = PuctConfig(agents=agents, simulations=24, c_puct=0.5, solutions=0)
    tree = countdown_tree(make_problem((5, 13, 5, 9), 31))
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(search_by_puct(tree, MockEngine(solve_rate=0.3, latency_s=0.01, value_noise=0.5, seed=seed), way))
    check_counts(tree)
    return tree


def test_the_same_seed_gives_the_same_tree_and_the_golden_one() -> None:
    found = {str(agents): tree_hash(mock_tree(agents)) for agents in (1, 16)}
    assert found == {str(agents): tree_hash(mock_tree(agents)) for agents in (1, 16)}
    assert tree_hash(mock_tree(16, seed=1)) != found["16"]
    assert found == json.loads(GOLDEN.read_text())
