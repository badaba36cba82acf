"""Learning from whole trees: what each token is to learn, and one pass over a trie against its branches one by one."""

import asyncio
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.fakes import ScriptedEngine, step
from tests.test_learning import CPU, policy, take_step
from tests.trajectories import make_trajectory
from tsd.config import HarvestConfig, LossConfig, SearchConfig, load_config
from tsd.learn.batch import MicroBatch, collate, idle, share
from tsd.learn.group import Group
from tsd.learn.learner import PolicyLearner
from tsd.learn.loss import visit_loss
from tsd.learn.rows import lay_out
from tsd.learn.targets import num_laid_out, sibling_advantages, step_returns, targets, visit_shares
from tsd.learn.update import score
from tsd.model.files import model_path
from tsd.model.policy import Policy
from tsd.search import Status, Tree, grow, harvest
from tsd.types import FIRST, Expansion, Grade, Trajectory

TREE = LossConfig(advantage="sibling")


def trajectory(
    parents: list[int],
    lengths: list[int] | None = None,
    seed: int = 0,
    q: list[float] | None = None,
    rewards: list[float] | None = None,
) -> Trajectory:
    """A trie of random tokens."""
    changes: dict[str, Any] = (
        {} if q is None else {"q": np.array(q, np.float32), "rewards": np.array(rewards or q, np.float32)}
    )
    rng = random.Random(seed)
    return make_trajectory(seed, lengths or [rng.randrange(1, 6) for _ in parents], parents, **changes)


def random_tree(seed: int, num_steps: int = 25) -> Trajectory:
    rng = random.Random(seed)
    return trajectory([FIRST] + [rng.randrange(FIRST, i) for i in range(1, num_steps)], seed=seed)


def branches(tree: Trajectory) -> list[tuple[list[int], Trajectory]]:
    """Every path to an end as a trajectory of its own, with the places of its tokens in the tree."""
    starts = np.cumsum(tree.lengths) - tree.lengths
    found = []
    for end in sorted(set(range(len(tree.parents))) - set(tree.parents.tolist())):
        steps: list[int] = []
        one = int(end)
        while one != FIRST:
            steps.insert(0, one)
            one = int(tree.parents[one])
        places = [int(starts[s]) + i for s in steps for i in range(int(tree.lengths[s]))]
        arrays = {name: getattr(tree, name)[places] for name in ("tokens", "logprobs", "values", "versions")}
        of_steps = {name: getattr(tree, name)[steps] for name in ("lengths", "visits", "q", "rewards")}
        parents = np.arange(len(steps), dtype=np.int32) - 1
        found.append((places, replace(tree, parents=parents, **arrays, **of_steps)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_trie_in_one_pass_has_the_logprobs_values_and_gradients_of_its_branches(seed: int) -> None:
    tree, model = random_tree(seed), policy()
    num_tokens = len(tree.tokens)
    weights = torch.tensor(np.random.default_rng(seed).normal(size=(2, num_tokens)) / num_tokens, dtype=torch.float32)
    logprobs, values = tokens_scored(model, collate(lay_out([tree], TREE, 10_000), 10_000)[0])
    ((logprobs * weights[0]).sum() + (values * weights[1]).sum()).backward()  # type: ignore[no-untyped-call]
    of_trie = gradients(model)
    model.zero_grad()
    laid_out = branches(tree)
    num_copies = np.bincount([place for places, _ in laid_out for place in places])
    assert num_copies.max() > 3
    gaps = [torch.zeros(1)]
    for places, branch in laid_out:
        one, value = tokens_scored(model, collate(lay_out([branch], LossConfig(), 10_000), 10_000)[0])
        gaps += [(one - logprobs[places]).detach().abs(), (value - values[places]).detach().abs()]
        each = weights[:, places] / torch.tensor(num_copies[places])
        ((one * each[0]).sum() + (value * each[1]).sum()).backward()  # type: ignore[no-untyped-call]
    worst = float(torch.cat(gaps).max())
    gap = max(float((a - b).abs().max()) for a, b in zip(of_trie, gradients(model), strict=True))
    print(f"trie against branches: logprobs and values differ by {worst:.1e}, gradients by {gap:.1e}")
    assert worst < 1e-5
    assert gap < 1e-5


def tokens_scored(model: Policy, batch: MicroBatch, temperature: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    scored = score(model, batch, temperature, CPU)
    return scored.logprobs[batch.mask], scored.values[batch.mask]


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def test_a_batch_of_trees_and_paths_gives_each_what_it_gets_alone() -> None:
    model, mixed = policy(), [random_tree(1), trajectory([FIRST, 0, 1], seed=2), random_tree(3, num_steps=9)]
    together = collate(lay_out(mixed, TREE, 10_000), 10_000)
    assert len(together) == 1
    rows = {tuple(row[row > 0].tolist()): i for i, row in enumerate(together[0].tokens)}
    scored = score(model, together[0], 0.7, CPU)
    for one in mixed:
        (alone,) = collate(lay_out([one], TREE, 10_000), 10_000)
        row = rows[tuple(alone.tokens[0].tolist())]
        found = scored.logprobs[row][together[0].mask[row]]
        assert torch.allclose(found, tokens_scored(model, alone)[0], atol=1e-5)


def test_a_path_of_several_steps_needs_no_attention_mask_and_a_tree_does() -> None:
    path, tree = trajectory([FIRST, 0, 1]), random_tree(0)
    (of_path,), (of_tree,) = (collate(lay_out([one], TREE, 10_000), 10_000) for one in (path, tree))
    assert of_path.attention is None
    assert of_tree.attention is not None
    assert of_tree.attention.shape == (1, 1, of_tree.tokens.shape[1], of_tree.tokens.shape[1])


def test_siblings_share_the_tokens_they_begin_with() -> None:
    tree = trajectory([FIRST, FIRST], lengths=[4, 4])
    tree.tokens[4:7] = tree.tokens[0:3]
    (row,) = lay_out([tree], TREE, 100)
    assert len(row) == 5 + 3
    assert row.is_path
    assert row.sources.tolist() == [4, 5, 6, 7, 4, 5, 6, 7]
    assert row.sampled.tolist() == tree.tokens.tolist()


# Steps 0 and 1 follow the prompt; 2 and 3 follow 0, 4 follows 2.
PARENTS, VISITS = [FIRST, FIRST, 0, 0, 2], [6, 2, 3, 1, 2]
Q, REWARDS = [0.3, -1.0, 0.5, 0.0, 1.0], [0.7, -1.0, 1.0, 0.0, 1.0]


def family() -> Trajectory:
    made = trajectory(PARENTS, q=Q, rewards=REWARDS, lengths=[2, 1, 1, 3, 2])
    return replace(made, visits=np.array(VISITS, np.int32))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_returns_are_rewards_mixed_with_q(share: float) -> None:
    mixed = [(1 - share) * reward + share * q for reward, q in zip(REWARDS, Q, strict=True)]
    prompt = (6 * mixed[0] + 2 * mixed[1]) / 8
    assert step_returns(family(), share).tolist() == pytest.approx([*mixed, prompt])


def test_siblings_are_compared_with_each_other_alone() -> None:
    returns, parents = np.array([0.4, -0.2, 1.0, 0.0, 0.7], np.float32), np.array(PARENTS)
    assert sibling_advantages(returns, parents).tolist() == pytest.approx([0.3, -0.3, 0.5, -0.5, 0.0])
    assert visit_shares(np.array([6, 2, 3, 0, 0]), parents).tolist() == pytest.approx([0.75, 0.25, 1.0, 0.0, 0.0])


def test_a_steps_first_token_is_valued_as_the_state_it_starts_from() -> None:
    one = targets(family(), 0.0, LossConfig(advantage="sibling", tree_value_share=1.0))
    root = (6 * 0.3 + 2 * -1.0) / 8
    assert one.value_returns.tolist() == pytest.approx([root, 0.3, root, 0.3, 0.3, 0.0, 0.0, 0.5, 1.0])
    assert one.returns.tolist() == pytest.approx([0.3, 0.3, -1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0])
    assert num_laid_out(family()) == (5 + 1) + (5 + 2 + 3) + (5 + 2 + 1 + 2)


def test_a_path_learns_its_final_reward_everywhere() -> None:
    one = targets(trajectory([FIRST, 0, 1], q=[0.1, 0.2, 0.75], rewards=[0.75] * 3), 0.0, LossConfig())
    assert set(one.returns.tolist()) == set(one.value_returns.tolist()) == {0.75}


def test_the_visit_loss_is_the_cross_entropy_of_steps() -> None:
    logprobs = torch.tensor([[math.log(0.5), math.log(0.5), math.log(0.1)]])
    found = visit_loss(logprobs, torch.tensor([[0.75, 0.75, 0.25]]), torch.ones(1, 3, dtype=torch.bool))
    assert found.item() == pytest.approx(-0.75 * math.log(0.25) - 0.25 * math.log(0.1))


@pytest.mark.parametrize("config", [TREE, LossConfig(advantage="value", c_policy=0.0, c_visits=1.0)])
def test_an_update_makes_the_better_and_more_visited_sibling_likelier(config: LossConfig) -> None:
    one = replace(trajectory([FIRST, FIRST], lengths=[3, 3], q=[1.0, -1.0]), visits=np.array([9, 1], np.int32))
    model, (batch,) = policy(), collate(lay_out([one], config, 10_000), 1000)
    before = tokens_scored(model, batch)[0]
    stats = take_step(model, [one], 1000, config=replace(config, c_kl=0.0, c_value=0.0))
    gain = (tokens_scored(model, batch)[0] - before).reshape(2, 3).sum(1)
    assert stats is not None
    assert stats.visit_loss > 0
    assert gain[0] > 0
    assert gain[0] > gain[1]


def test_trainer_and_engine_are_compared_at_the_same_weights_however_stale_the_tokens() -> None:
    config = load_config(None, ["harvest.whole_tree=true", "loss.advantage=sibling", "train.learning_rate=1e-2"])
    learner = PolicyLearner(config, model_path("builtin:countdown-tiny"), None, Group())
    (batch,) = collate(lay_out([random_tree(9)], TREE, 10_000), 10_000)
    with torch.no_grad():
        exact = tokens_scored(learner.policy, batch, config.engine.temperature)[0]
    before = random_tree(1), random_tree(2)
    stale = replace(random_tree(9), logprobs=exact.numpy() - np.float32(0.25))
    gaps = []
    for number, trees in enumerate((before, before, [stale])):
        # Versions are counted from 3; the engine that sampled the last tree had the weights of before the first update.
        aged = [replace(one, versions=np.full(len(one.tokens), 3 if one is stale else 2, np.int32)) for one in trees]
        stats = learner.learn(aged, 3 + number, number)
        assert stats is not None
        gaps.append(stats.logprob_gap)
    assert gaps[:2] == [None, None]
    assert gaps[2] == pytest.approx(0.25, abs=1e-5)
    assert learner.probe.version == -1, "one that is measured is let go"


def test_parts_hold_everything_once_in_even_shares_and_an_idle_one_teaches_nothing() -> None:
    rows = lay_out([random_tree(seed) for seed in range(9)], TREE, 40)
    parts = share(rows, 2)
    assert sorted(id(row) for part in parts for row in part) == sorted(id(row) for row in rows)
    loads = [sum(map(len, part)) for part in parts]
    assert max(loads) - min(loads) <= max(map(len, rows))
    nothing = idle(collate(parts[0], 10_000)[0])
    assert (nothing.num_tokens, len(nothing.tokens)) == (0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_in_pieces_teaches_each_step_once_and_what_it_teaches_in_one(seed: int) -> None:
    tree, model = random_tree(seed), policy()
    rows = lay_out([tree], TREE, 30)
    longest = 1 + max(int(row.positions.max()) for row in rows)
    assert len(rows) > 1
    assert max(map(len, rows)) <= max(30, longest)
    assert sum(len(row.sampled) for row in rows) == len(tree.tokens)
    found = []
    for row_tokens in (30, 10_000):
        loss = torch.zeros(())
        for batch in collate(lay_out([tree], TREE, row_tokens), 10_000):
            scored = score(model, batch, 0.7, CPU)
            loss = loss + ((scored.logprobs + scored.values) * batch.advantages)[batch.mask].sum() / len(tree.tokens)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        found.append(gradients(model))
    assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) < 1e-5


def test_a_whole_tree_is_harvested_with_what_search_says_of_each_step() -> None:
    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.25, (step(1, 2), step(3), step(5, finish="end")))

    def grade(tokens: object) -> Grade:
        return Grade(0.5, False, True)

    config = SearchConfig(agents=1, simulations=12, max_depth=4, solutions=0)
    tree, engine = Tree((7,), grade, config), ScriptedEngine(script)
    asyncio.run(grow(tree, engine))
    everything = HarvestConfig(whole_tree=True, min_visits=1)
    (trie,) = asyncio.run(harvest(tree, engine, everything, random.Random(0)))
    nodes = [node for node in tree.root.walk() if node.step and (node.visits or node.closed)]
    assert [one.tokens for one in trie.steps] == [node.step.tokens for node in nodes if node.step]
    assert trie.visits == tuple(node.visits for node in nodes)
    assert all(parent < i for i, parent in enumerate(trie.parents))
    assert trie.grade.reward == 0.5
    for node, reward, q in zip(nodes, trie.rewards, trie.q, strict=True):
        below = [one.end_value for one in node.walk() if one.status is not Status.OPEN]
        assert reward == pytest.approx(sum(below) / len(below) if below else node.q)
        assert q == (node.q if node.status is Status.OPEN else node.end_value)
    (sure,) = asyncio.run(harvest(tree, engine, HarvestConfig(whole_tree=True, min_visits=4), random.Random(0)))
    known = [node for node in nodes if node.parent and node.parent.visits >= 4]
    assert 3 <= len(known) < len(nodes)
    assert {one.tokens for one in sure.steps} >= {node.step.tokens for node in known if node.step}
    assert len(known) <= len(sure.steps) <= len(known) + 4, "and the chosen path"


def test_a_tree_without_an_end_is_finished_where_it_was_chosen() -> None:
    def script(state: tuple[int, ...]) -> Expansion:
        return Expansion(0.25, (step(1), step(2)))

    config = SearchConfig(agents=1, simulations=3, solutions=0)
    tree = Tree((7,), lambda tokens: Grade(0.5, False, True), config)
    engine = ScriptedEngine(script)
    asyncio.run(grow(tree, engine))
    (trie,) = asyncio.run(harvest(tree, engine, HarvestConfig(whole_tree=True, choose="visits"), random.Random(0)))
    assert trie.steps[-1].finish == "end"
    assert trie.q[-1] == trie.rewards[-1] == 0.5
    assert trie.parents[-1] != FIRST


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["harvest.whole_tree=true", "loss.advantage=group"], "use 'sibling' or 'value'"),
        (["harvest.whole_tree=false", "loss.advantage=sibling"], "harvest.whole_tree = true"),
        (["method=cispo", "loss.c_visits=0.1"], "harvest.whole_tree = true"),
    ],
)
def test_targets_that_need_whole_trees_are_refused_without_them(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, overrides)


def test_a_path_is_never_cut_however_long() -> None:
    (row,) = lay_out([trajectory([FIRST, 0, 1], lengths=[90, 90, 90])], TREE, 50)
    assert len(row) == 5 + 269
