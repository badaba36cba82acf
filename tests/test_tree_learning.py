"""Learning from whole trees: what each token is to learn, and one pass over a trie against its branches one by one."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.support.learning import CPU, policy, take_step
from tests.support.tries import random_tree, trajectory
from tsd.config import CispoConfig, IndexConfig, load_config
from tsd.learn.batch import MicroBatch, collate, idle, share
from tsd.learn.policy_learner import PolicyLearner
from tsd.learn.ranks import Ranks
from tsd.learn.rows import lay_out, num_laid_out
from tsd.learn.update import score
from tsd.methods import make_method
from tsd.methods.index import tree_advantages, tree_targets, with_prompt
from tsd.model.files import HEAD_PREFIX, model_path
from tsd.model.policy import Policy
from tsd.types import NO_PARENT, Grade, Trajectory

TREE = make_method(IndexConfig()).targets


def branches(tree: Trajectory) -> list[tuple[list[int], Trajectory]]:
    """Every path to an end as a trajectory of its own, with the places of its tokens in the tree."""
    starts = np.cumsum(tree.lengths) - tree.lengths
    found = []
    for end in sorted(set(range(len(tree.parents))) - set(tree.parents.tolist())):
        steps: list[int] = []
        one = int(end)
        while one != NO_PARENT:
            steps.insert(0, one)
            one = int(tree.parents[one])
        places = [int(starts[s]) + i for s in steps for i in range(int(tree.lengths[s]))]
        arrays = {name: getattr(tree, name)[places] for name in ("tokens", "logprobs", "values", "versions")}
        of_steps = {name: getattr(tree, name)[steps] for name in ("lengths", "visits", "q")}
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
        one, value = tokens_scored(model, collate(lay_out([branch], TREE, 10_000), 10_000)[0])
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
    model, mixed = policy(), [random_tree(1), trajectory([NO_PARENT, 0, 1], seed=2), random_tree(3, num_steps=9)]
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
    path, tree = trajectory([NO_PARENT, 0, 1]), random_tree(0)
    (of_path,), (of_tree,) = (collate(lay_out([one], TREE, 10_000), 10_000) for one in (path, tree))
    assert of_path.attention is None
    assert of_tree.attention is not None
    assert of_tree.attention.shape == (1, 1, of_tree.tokens.shape[1], of_tree.tokens.shape[1])


def test_siblings_share_the_tokens_they_begin_with() -> None:
    tree = trajectory([NO_PARENT, NO_PARENT], lengths=[4, 4])
    tree.tokens[4:7] = tree.tokens[0:3]
    (row,) = lay_out([tree], TREE, 100)
    assert len(row) == 5 + 3
    assert row.is_path
    assert row.sources.tolist() == [4, 5, 6, 7, 4, 5, 6, 7]
    assert row.sampled.tolist() == tree.tokens.tolist()


# Steps 0 and 1 follow the prompt; 2 and 3 follow 0, 4 follows 2.
PARENTS, VISITS = [NO_PARENT, NO_PARENT, 0, 0, 2], [6, 2, 3, 1, 2]
Q = [0.3, -1.0, 0.5, 0.0, 1.0]
PROMPT_Q = (6 * 0.3 + 2 * -1.0) / 8


def family() -> Trajectory:
    return replace(trajectory(PARENTS, q=Q, lengths=[2, 1, 1, 3, 2]), visits=np.array(VISITS, np.int32))


def test_a_prompts_q_is_the_mean_over_its_steps_by_visits() -> None:
    assert with_prompt(family()).tolist() == pytest.approx([*Q, PROMPT_Q])


def test_a_steps_first_token_is_valued_as_the_state_it_starts_from() -> None:
    returns = tree_targets(family()).returns.tolist()
    assert returns == pytest.approx([PROMPT_Q, 0.3, PROMPT_Q, 0.3, 0.3, 0.0, 0.0, 0.5, 1.0])
    assert num_laid_out(family()) == (5 + 1) + (5 + 2 + 3) + (5 + 2 + 1 + 2)


def test_a_step_is_compared_with_where_it_starts_and_with_the_prompt_as_often_as_it_is_taken() -> None:
    each = [
        (0.3 - PROMPT_Q) * 2 * 6,
        (-1.0 - PROMPT_Q) * 2 * 2,
        ((0.5 - 0.3) + (0.5 - PROMPT_Q)) * 3,
        ((0.0 - 0.3) + (0.0 - PROMPT_Q)) * 1,
        ((1.0 - 0.5) + (1.0 - PROMPT_Q)) * 2,
    ]
    found = tree_advantages(with_prompt(family()), np.array(PARENTS), np.array(VISITS))
    assert found.tolist() == pytest.approx(each, rel=1e-5)
    tokens = np.repeat(each, [2, 1, 1, 3, 2])
    scaled = tokens / (np.sqrt((tokens**2).mean()) + 0.05)
    assert tree_targets(family()).advantages.tolist() == pytest.approx(scaled.tolist(), rel=1e-5)


def test_a_tree_whose_steps_are_all_alike_teaches_nothing() -> None:
    assert not tree_targets(trajectory([NO_PARENT, NO_PARENT, 0], q=[0.5, 0.5, 0.5])).advantages.any()


def test_a_tree_without_a_solution_teaches_v_alone_where_the_policy_learns_from_solved_ones() -> None:
    method = make_method(IndexConfig(learn_from="solved"))
    whole = tree_targets(family())
    for solved in (True, False):
        (found,) = method.targets([replace(family(), grade=Grade(0.0, exact=solved, well_formed=True))])
        assert found.returns.tolist() == whole.returns.tolist()
        assert found.advantages.tolist() == (whole.advantages if solved else 0 * whole.advantages).tolist()


def test_an_update_makes_the_better_sibling_likelier() -> None:
    one = replace(trajectory([NO_PARENT, NO_PARENT], lengths=[3, 3], q=[1.0, -1.0]), visits=np.array([9, 1], np.int32))
    model, (batch,) = policy(), collate(lay_out([one], TREE, 10_000), 1000)
    before = tokens_scored(model, batch)[0]
    config = CispoConfig(c_kl=0.0, c_value=0.0)
    assert take_step(model, [one], 1000, config=config, targets=TREE) is not None
    gain = (tokens_scored(model, batch)[0] - before).reshape(2, 3).sum(1)
    assert gain[0] > gain[1].clamp(min=0)


def test_trainer_and_engine_are_compared_at_the_same_weights_however_stale_the_tokens() -> None:
    config = load_config(None, ["train.learning_rate=1e-2"])
    learner = PolicyLearner(config, model_path("builtin:countdown-tiny"), None, Ranks())
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


def test_the_value_head_learns_at_a_rate_of_its_own() -> None:
    start = Policy.load(model_path("builtin:countdown-tiny")).named_tensors()
    config = load_config(None, ["train.learning_rate=1e-4", "train.value_rate=8"])
    learner = PolicyLearner(config, model_path("builtin:countdown-tiny"), None, Ranks())
    assert learner.learn([random_tree(1), random_tree(2)], 0, 0) is not None
    # AdamW's first step moves a weight by the rate itself, or by less where its gradient is next to nothing.
    moved = {name: (tensor - start[name]).abs().max().item() for name, tensor in learner.policy.named_tensors().items()}
    head = max(change for name, change in moved.items() if name.startswith(HEAD_PREFIX))
    model = max(change for name, change in moved.items() if not name.startswith(HEAD_PREFIX))
    assert head == pytest.approx(8e-4, rel=1e-2)
    assert model == pytest.approx(1e-4, rel=1e-2)


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


def test_a_path_is_never_cut_however_long() -> None:
    (row,) = lay_out([trajectory([NO_PARENT, 0, 1], lengths=[90, 90, 90])], TREE, 50)
    assert len(row) == 5 + 269
