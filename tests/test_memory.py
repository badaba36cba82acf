"""Memory of steps: the arithmetic on a fake one, and searches with a real Chroma collection."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.support.command import tsd
from tests.support.launching import launched
from tests.support.runs import SMALL, TSD, finish
from tsd.config import IndexConfig, SearchConfig, load_config
from tsd.engine import make_engine
from tsd.engine.mock import CharCodec, MockEngine
from tsd.errors import DiskError
from tsd.search import Calibration, Memory, Tree, expected, plant, search_by_index, tree_hash
from tsd.search.calibration import Counts
from tsd.search.chroma import NUM_BLOCKS, SIZE, ChromaMemory, check_memory, embed, open_memory
from tsd.search.index import Prospect, TrainingIndex
from tsd.search.memory import Place, first_value, outcomes
from tsd.search.node import Node
from tsd.solve import compare_solving
from tsd.tasks.countdown import Countdown
from tsd.types import Problem

TASK, CODEC = Countdown(), CharCodec()
PROBLEMS = list(TASK.problems("validation", 20, 0))
WAY = IndexConfig(agents=1, max_tokens=600, solutions=1)
STATES = {f"{depth} {centre}": Counts(10, 5 + centre / 2, 300) for depth in (1, 2, 3) for centre in range(-10, 11)}
CALIBRATION = Calibration(strength=3.0, states=STATES)
PLACE = Place(CODEC.encode("5 13 5 9=31:"), CODEC.encode("<step>5*9=45|5 13 45</step>"))


class Told:
    """Always recalls the same, and keeps what it is to remember."""

    def __init__(self, mean: float, num: int) -> None:
        self.mean, self.num = mean, num
        self.asked: list[Place] = []
        self.remembered: dict[Place, float] = {}

    async def recall(self, place: Place) -> tuple[float, int]:
        self.asked.append(place)
        await asyncio.sleep(0)
        return self.mean, self.num

    async def remember(self, outcomes: Mapping[Place, float]) -> None:
        self.remembered |= outcomes


class Recording(TrainingIndex):
    """Keeps the first value of each state that it is told of; leaves the calibration as it is."""

    runs_first_whole = False

    entered: dict[Node, tuple[float, Prospect]]

    def enter(self, node: Node, up: Prospect, value: float) -> Prospect:
        prospect = super().enter(node, up, value)
        vars(self).setdefault("entered", {})[node] = value, prospect
        Recording.last = self
        return prospect

    last: "Recording"


def make_tree(problem: Problem = PROBLEMS[0], seed: int = 0) -> Tree:
    return plant(problem, TASK, CODEC, "compact", SearchConfig(), seed=seed)


async def grown(
    memory: Memory | None, tree: Tree | None = None, noise: float = 0.5, seed: int = 0, agents: int = 1
) -> Tree:
    tree = tree or make_tree()
    engine, way = MockEngine(solve_rate=0.1, value_noise=noise, seed=seed), replace(WAY, agents=agents)
    await search_by_index(tree, engine, way, CALIBRATION, memory=memory, rule=Recording)
    return tree


@pytest.mark.parametrize(("num", "expected_value"), [(0, 0.6), (4, 0.75 * 0.6 - 0.25), (12, 0.625 * 0.6 - 0.375)])
async def test_memories_count_by_how_many_there_are_and_for_half_at_most(num: int, expected_value: float) -> None:
    assert await first_value(Told(-1.0, num), PLACE, 0.6) == pytest.approx(expected_value)


async def test_a_new_state_is_judged_by_its_v_and_what_is_remembered() -> None:
    memory = Told(-1.0, 4)
    tree = await grown(memory)
    entered = Recording.last.entered
    assert len(entered) > 5
    for node, (value, prospect) in entered.items():
        assert node.step is not None
        assert value == pytest.approx(0.75 * node.step.values[-1] - 0.25)
        assert (prospect.chance, prospect.tokens_left) == CALIBRATION.judge(node.depth, value)
    assert {Place(tree.prompt, node.step.tokens) for node in entered if node.step} == set(memory.asked)


async def test_a_memory_that_knows_nothing_leaves_the_tree_as_it_is_without_one() -> None:
    hashes = set()
    for memory in (None, Told(-1.0, 0)):
        tree = make_tree()
        await search_by_index(tree, MockEngine(solve_rate=0.1, value_noise=0.5), WAY, CALIBRATION, memory=memory)
        hashes.add(tree_hash(tree))
    assert len(hashes) == 1


async def test_what_came_of_each_expanded_state_is_remembered_as_the_policy_expects_it() -> None:
    memory = Told(0.0, 0)
    tree = await grown(memory)
    whole, nodes = expected(tree), list(tree.root.walk())[1:]
    wanted = {
        Place(tree.prompt, node.step.tokens): q
        for node, q in zip(nodes, whole.q, strict=True)
        if node.step and node.made
    }
    assert memory.remembered == pytest.approx(wanted)
    assert outcomes(tree).keys() == wanted.keys()
    assert len(wanted) > 3


async def test_a_tree_is_not_taken_for_exhausted_while_its_only_new_state_is_asked_about() -> None:
    tree = make_tree()
    await grown(Told(0.0, 0), tree, agents=16)
    assert tree.stop_reason() in ("solved", "tokens")
    assert tree.num_duplicates == 0


async def test_a_memory_that_fails_ends_the_search_with_nothing_under_way() -> None:
    class Failing(Told):
        async def recall(self, place: Place) -> tuple[float, int]:
            if len(self.asked) == 5:
                raise DiskError("gone")
            return await super().recall(place)

    tree = make_tree()
    with pytest.raises(ExceptionGroup) as caught:
        await grown(Failing(0.0, 1), tree, agents=4)
    assert caught.group_contains(DiskError, match="gone")
    assert all(node.in_flight == 0 for node in tree.root.walk())


def test_an_embedding_is_a_unit_vector_near_those_of_like_places_and_the_same_for_ever() -> None:
    vector = embed(PLACE)
    assert vector.shape == (SIZE,)
    assert vector @ vector == pytest.approx(1.0)
    other_order = Place(CODEC.encode("13 5 5 9=31:"), CODEC.encode("<step>9*5=45|5 13 45</step>"))
    other_problem = Place(CODEC.encode("2 7 8 8=12:"), CODEC.encode("<step>8-2=6|6 7 8</step>"))
    assert vector @ embed(other_order) > 0.75 > 0.5 > vector @ embed(other_problem)
    assert embed(Place((1,), (2,))).nonzero()[0].tolist() == [185, 203]
    assert not embed(Place((), ())).any()


async def opened(directory: Path) -> Memory:
    memory = await asyncio.to_thread(open_memory, SearchConfig(memory=str(directory)))
    assert memory is not None
    return memory


async def test_a_collection_recalls_the_mean_of_near_places_and_keeps_the_newest_of_the_same(tmp_path: Path) -> None:
    memory = await opened(tmp_path)
    assert await memory.recall(PLACE) == (0.0, 0)
    await memory.remember({})
    like = Place(PLACE.prompt, CODEC.encode("<step>9*5=45|5 13 45</step>"))
    far = Place(CODEC.encode("2 7 8 8=12:"), CODEC.encode("<step>8-2=6|6 7 8</step>"))
    await memory.remember({PLACE: 0.5, far: 1.0})
    await memory.remember({like: -0.5, PLACE: 0.25})
    assert await memory.recall(PLACE) == (-0.125, 2)
    assert await (await opened(tmp_path)).recall(far) == (1.0, 1)


async def test_a_collection_forgets_what_was_last_kept_many_blocks_ago(tmp_path: Path) -> None:
    memory = await opened(tmp_path)
    assert isinstance(memory, ChromaMemory)
    far = [Place(PLACE.prompt, (token,)) for token in range(100, 100 + NUM_BLOCKS + 1)]
    often = Place((7, 8, 9), (10,))
    small = ChromaMemory(memory._collection, block=2)
    for place in far:
        await small.remember({place: 1.0, often: 0.5})
    assert (await small.recall(far[0]))[0] != 1.0
    assert await small.recall(often) == (0.5, 1)
    assert memory._collection.count() == NUM_BLOCKS + 1
    assert ChromaMemory(memory._collection)._number == NUM_BLOCKS + 1


async def test_states_like_those_of_an_earlier_search_are_valued_nearer_to_what_comes_of_them(tmp_path: Path) -> None:
    memory, truth = await opened(tmp_path), MockEngine(solve_rate=0.1)
    for problem in PROBLEMS:
        await grown(memory, make_tree(problem), noise=1.0)
    found = []
    for problem in PROBLEMS:  # the same ones, by an engine whose V errs otherwise
        tree = await grown(None, make_tree(problem), noise=1.0, seed=1)
        for node, (value, _) in Recording.last.entered.items():
            assert node.step is not None
            true = (await truth.expand(tree.state(node), 1, 64)).value
            found.append((true, value, await first_value(memory, Place(tree.prompt, node.step.tokens), value)))
    trues, of_policy, with_memory = np.array(found).T
    print(np.corrcoef(found, rowvar=False)[0])
    assert np.corrcoef(trues, with_memory)[0, 1] > np.corrcoef(trues, of_policy)[0, 1] + 0.02
    assert ((trues - with_memory) ** 2).mean() < 0.8 * ((trues - of_policy) ** 2).mean()


def test_solve_remembers_in_the_directory_that_it_is_given(tmp_path: Path) -> None:
    directory = tmp_path / "memory"
    options = ("--engine", "mock", "--tokens", "600", "--set", f"search.memory={directory}")
    assert tsd("solve", "5 13 5 9 = 31", *options) == 0
    memory = open_memory(SearchConfig(memory=str(directory)))
    assert memory is not None
    assert asyncio.run(memory.recall(PLACE))[1] > 0


async def test_a_comparison_of_ways_searches_with_the_memory_that_is_set(tmp_path: Path) -> None:
    config = load_config(None, ["engine.kind=mock", f"search.memory={tmp_path}", "method.max_tokens=200"])
    generation = make_engine(config, None, temperature=1.0, seed=0)
    await compare_solving(generation, TASK, PROBLEMS[:2], config, CALIBRATION, ways=("search",))
    tree = await grown(Told(0.0, 0))
    nums = [(await (await opened(tmp_path)).recall(place))[1] for place in outcomes(tree)]
    assert sum(nums) > 0


def test_a_memory_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("something else")
    solve = ("solve", "5 13 5 9 = 31", "--engine", "mock", "--set")
    assert tsd(*solve, f"search.memory={tmp_path / 'file'}") == 1
    assert "search.memory: its directory cannot be read or written" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"search\.memory is for search by index: set method\.kind=index"):
        load_config(None, ["search.memory=x", "method.kind=puct"])
    monkeypatch.setitem(sys.modules, "chromadb", None)
    with pytest.raises(ValueError, match=r"chromadb is not installed; run pip install 'tsd\[chroma\]'"):
        check_memory(SearchConfig(memory="x"))
    check_memory(SearchConfig())
    assert open_memory(SearchConfig()) is None


@pytest.mark.timeout(150)
def test_each_generator_of_a_run_keeps_a_memory_of_its_own(tmp_path: Path) -> None:
    settings = (
        *("--set", "engine.kind=mock", "--set", f"search.memory={tmp_path / 'memory'}"),
        *("--max-updates", "2", "--run-dir", str(tmp_path / "run")),
    )
    with launched([*TSD, *SMALL, *settings]) as run:
        finish(run, 140)
    names = sorted(path.name for path in (tmp_path / "memory").iterdir())
    assert names == ["generator-0", "generator-1"]
