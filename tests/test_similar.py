"""Steps that say nearly the same: merged with their mass where that is asked for, and answers never."""

import math
from collections.abc import Sequence
from importlib.metadata import EntryPoint

import pytest
from msgspec.structs import replace

from tests.fakes import ScriptedEngine, step
from tsd.config import SearchConfig
from tsd.engine.mock import CharCodec, MockEngine
from tsd.search import Tree, grow, plant
from tsd.search.similar import Similar, find_embedding, load_embedding, trigrams
from tsd.tasks.countdown import Countdown
from tsd.types import Expansion, Grade

CONFIG = SearchConfig(agents=1, simulations=1, num_samples=4, solutions=0)
SOLVED = Grade(1.0, True, True)


def angle(tokens: Sequence[int]) -> list[float]:
    """An embedding for tests: tokens below 10 all point one way."""
    return [1.0, 0.0] if tokens[0] < 10 else [0.0, float(tokens[0])]


def grown_root(*steps: object, threshold: float = 0.9) -> Tree:
    tree = Tree((0,), lambda tokens: SOLVED, CONFIG, similar=Similar(angle, threshold))
    tree.expand(tree.root, Expansion(0.5, steps))  # type: ignore[arg-type]
    return tree


def test_near_steps_become_the_first_of_them_with_their_mass() -> None:
    tree = grown_root(step(1), step(20), step(2), step(30))
    assert [(child.step.tokens, child.num_drawn, child.prior) for child in tree.root.children if child.step] == [
        ((1,), 2, 0.5),
        ((20,), 2, 0.5),
    ]
    assert (tree.num_nodes, tree.num_duplicates) == (3, 2)


def test_steps_from_different_states_are_different_steps() -> None:
    tree = grown_root(step(1), step(20))
    first = tree.root.children[0]
    assert tree.add(first, (step(3), step(4))) is first.children[0]
    assert [child.num_drawn for child in first.children] == [2]


def test_answers_are_never_merged() -> None:
    assert len(grown_root(step(1, finish="end"), step(2, finish="end"), step(3)).root.children) == 3


async def test_a_search_by_whole_paths_goes_on_from_the_step_it_was_merged_into() -> None:
    config = replace(CONFIG, rollout=True, simulations=20, agents=4, widen_power=0.9)
    task, codec = Countdown(), CharCodec()
    tree = plant(task.parse("5 13 5 9 = 31"), task, codec, "compact", replace(config, merge_similar=0.6))
    await grow(tree, MockEngine(solve_rate=0.3, seed=2))
    alone = plant(task.parse("5 13 5 9 = 31"), task, codec, "compact", config)
    await grow(alone, MockEngine(solve_rate=0.3, seed=2))
    assert tree.root.visits == 20
    assert len(tree.root.children) < len(alone.root.children)
    assert sum(node.in_flight for node in tree.root.walk()) == 0


async def test_nothing_is_embedded_unless_asked_for() -> None:
    tree = Tree((0,), lambda tokens: SOLVED, CONFIG)
    await grow(tree, ScriptedEngine(lambda state: Expansion(0.5, (step(1), step(2)))))
    assert tree.similar is None
    assert len(tree.root.children) == 2


def test_trigrams_tell_other_numbers_apart_and_take_spaces_for_nothing() -> None:
    def cosine(a: str, b: str) -> float:
        x, y = trigrams(a), trigrams(b)
        return float(
            sum(p * q for p, q in zip(x, y, strict=True)) / (sum(p * p for p in x) * sum(q * q for q in y)) ** 0.5
        )

    assert cosine("5 + 9 = 14", "5  + 9 =  14") == pytest.approx(1.0)
    assert cosine("so we add five and nine", "so we add nine and five") > 0.7
    assert cosine("5+9=14|14 5 13", "13*5=65|65 5 9") < 0.5


def test_an_embedding_nobody_has_is_one_line_and_a_registered_one_is_found() -> None:
    assert find_embedding("trigrams") is trigrams
    point = EntryPoint("lengths", "math:sqrt", "tsd.embeddings")
    found: object = load_embedding("lengths", [point])
    assert found is math.sqrt
    with pytest.raises(ValueError, match=r"search\.embedding: expected one of lengths, trigrams, found 'bert'"):
        load_embedding("bert", [point])
    with pytest.raises(ValueError, match="'broken' cannot be loaded"):
        load_embedding("broken", [EntryPoint("broken", "no_such_module:x", "tsd.embeddings")])
