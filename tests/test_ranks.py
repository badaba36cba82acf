"""Several trainers learn what one learns: the same losses, the same weights on every rank."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tsd.run.processes import meeting_point

BEGIN = """
import sys
from pathlib import Path
import msgspec, numpy as np, torch
from safetensors.numpy import save_file
from tsd.config import load_config
from tsd.learn.ranks import join_ranks
from tsd.learn.policy_learner import PolicyLearner
from tsd.model.files import model_path
from tests.support.trajectories import make_trajectory
from tsd.types import Grade

rank, world, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
rng = np.random.default_rng(0)

def trajectory(number):
    size, reward = int(rng.integers(4, 30)), float(rng.choice([-1, 0.1, 1]))
    rewards, versions = np.array([reward], np.float32), np.full(size, number % 2, np.int32)
    grade = Grade(reward, False, True)
    return make_trajectory(number, [size], num_prompt=9, versions=versions, q=rewards, grade=grade)

batches = [[trajectory(i) for i in range(7)] for _ in range(2)]  # one more for rank 0 than for rank 1
settings = ["train.micro_batch_tokens=120", "method.kind=best-of-n"]
"""
LEARN = """
config = load_config(None, settings)
with join_ranks(rank, world, 60) as ranks:
    learner = PolicyLearner(config, model_path("builtin:countdown-tiny"), None, ranks)
    stats = [learner.learn(batch, 0, number) for number, batch in enumerate(batches)]
    weights = learner.weights(1)
    directory = out / f"{world}"
    directory.mkdir(exist_ok=True)
    learner.save(directory)
    ranks.broadcast(b"saved" if rank == 0 else None)
    drift = {}  # one learner takes two steps on a batch, another the same two in two calls
    for inner in (1, 2):
        mixed = [*settings, "model.dtype=bfloat16", f"train.num_inner_steps={inner}", "loss.c_kl=0"]
        other = PolicyLearner(load_config(None, mixed), model_path("builtin:countdown-tiny"), None, ranks)
        for number in range(2 // inner):
            other.learn(batches[0], 0, number)
        drift[inner] = other.weights(1).tensors
    if rank == 0:
        apart = max(float(abs(drift[1][name] - drift[2][name]).max()) for name in drift[1])
        assert apart == 0, f"two steps on a batch and the same one by one are {apart} apart"
    again = PolicyLearner(config, model_path("builtin:countdown-tiny"), out / f"{world}", ranks)
    stats.append(again.learn(batches[0], 0, 2))
if rank == 0:
    save_file(weights.tensors, out / f"{world}.safetensors")
    (out / f"{world}.json").write_bytes(msgspec.json.encode(stats))
"""


GRADIENTS = """
mixed = [*settings, "model.dtype=bfloat16", "loss.c_kl=0", "train.max_grad_norm=1e9"]
with join_ranks(rank, world, 60) as ranks:
    learner = PolicyLearner(load_config(None, mixed), model_path("builtin:countdown-tiny"), None, ranks)
    with torch.no_grad():  # norms, which one rank alone does not round, among them
        for parameter in learner.policy.parameters():
            parameter.copy_(parameter.bfloat16().float())
    seen = set()
    for layer in learner.policy.causal.model.layers:
        layer.register_forward_pre_hook(lambda module, _: seen.add(module.mlp.up_proj.weight.dtype))
    stats = learner.learn(batches[0], 0, 0)
    grads = {name: one.grad for name, one in learner.policy.named_parameters()}
    whole = {name: grad if world == 1 else grad.full_tensor() for name, grad in grads.items()}
assert seen == {torch.float32 if world == 1 else torch.bfloat16}, seen
assert all(one.dtype == torch.float32 for one in (*learner.policy.parameters(), *whole.values()))
if rank == 0:
    save_file({name: grad.numpy() for name, grad in whole.items()}, out / f"{world}.safetensors")
    (out / f"{world}.json").write_bytes(msgspec.json.encode(stats))
"""


def run_ranks(script: str, world: int, out: Path) -> None:
    """A group of processes to its end."""
    env = {**os.environ, **meeting_point("127.0.0.1"), "PYTHONPATH": str(Path(__file__).parent.parent)}
    ranks = [
        subprocess.Popen([sys.executable, "-c", BEGIN + script, str(rank), str(world), str(out)], env=env)
        for rank in range(world)
    ]
    try:
        assert [rank.wait(timeout=90) for rank in ranks] == [0] * world
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.mark.timeout(200)
def test_two_trainers_learn_what_one_learns(tmp_path: Path) -> None:
    run_ranks(LEARN, 1, tmp_path)
    run_ranks(LEARN, 2, tmp_path)
    alone, together = (load_file(tmp_path / f"{world}.safetensors") for world in (1, 2))
    learning_rate = 5e-6
    gaps = {name: np.abs(tensor - together[name]) for name, tensor in alone.items()}
    for name, gap in gaps.items():
        # AdamW moves a weight by about the learning rate whatever its gradient, rounding of tiny ones included.
        assert gap.mean() < 0.01 * learning_rate, name
    stats: list[list[dict[str, Any]]] = [json.loads((tmp_path / f"{world}.json").read_text()) for world in (1, 2)]
    for one, other in zip(*stats, strict=True):
        del one["ratio_quantiles"], other["ratio_quantiles"]  # of a rank's own tokens
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    worst = max(abs(one["loss"] - other["loss"]) for one, other in zip(*stats, strict=True))
    mean = np.concatenate([gap.ravel() for gap in gaps.values()]).mean()
    print(f"two trainers against one: losses differ by {worst:.1e}, weights by {mean:.1e} on average after two updates")


@pytest.mark.timeout(200)
def test_layers_that_travel_in_bfloat16_give_the_gradients_of_one_trainer(tmp_path: Path) -> None:
    run_ranks(GRADIENTS, 1, tmp_path)
    run_ranks(GRADIENTS, 2, tmp_path)
    alone, together = (load_file(tmp_path / f"{world}.safetensors") for world in (1, 2))
    cosines = {name: cosine(grad, together[name]) for name, grad in alone.items() if np.any(grad)}
    stats: list[dict[str, float]] = [json.loads((tmp_path / f"{world}.json").read_text()) for world in (1, 2)]
    worst = min(cosines, key=lambda name: cosines[name])
    print(f"losses {[one['loss'] for one in stats]}; the gradients least alike, of {worst}: {cosines[worst]:.5f}")
    assert stats[0]["loss"] == pytest.approx(stats[1]["loss"], rel=1e-2)
    assert stats[0]["grad_norm"] == pytest.approx(stats[1]["grad_norm"], rel=1e-2)
    assert cosines[worst] > 0.999


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
