"""A small policy, and one step of learning."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from tests.support.trajectories import make_trajectory
from tsd.config import BestOfConfig, CispoConfig, LossConfig
from tsd.learn.batch import MicroBatch
from tsd.learn.batch import collate as collate_rows
from tsd.learn.ranks import Ranks
from tsd.learn.rows import lay_out
from tsd.learn.update import reference_logprobs, update
from tsd.methods import Targets, make_method
from tsd.model.policy import Policy
from tsd.model.tiny import tiny_model
from tsd.types import Grade, Stats, Trajectory

DEFAULT = CispoConfig()


AGAINST_VALUE = make_method(BestOfConfig()).targets


WantTargets = Callable[[Sequence[Trajectory]], list[Targets]]


CPU = torch.device("cpu")


def trajectory(
    num_prompt: int, num_tokens: int, seed: int = 0, reward: float = 1.0, logprob: float = -1.0
) -> Trajectory:
    grade, rewards = Grade(reward, reward == 1.0, True), np.array([reward], np.float32)
    logprobs = np.full(num_tokens, logprob, np.float32)
    return make_trajectory(seed, [num_tokens], num_prompt=num_prompt, logprobs=logprobs, q=rewards, grade=grade)


def collate(trajectories: list[Trajectory], max_tokens: int, targets: WantTargets = AGAINST_VALUE) -> list[MicroBatch]:
    return collate_rows(lay_out(trajectories, targets, 10_000), max_tokens)


def policy(seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    return Policy(tiny_model(num_layers=2, hidden_size=32)).eval()


def take_step(
    model: Policy,
    trajectories: list[Trajectory],
    max_tokens: int,
    lr: float = 1e-2,
    config: LossConfig = DEFAULT,
    max_grad_norm: float = 1e9,
    targets: WantTargets = AGAINST_VALUE,
) -> Stats | None:
    batches = collate(trajectories, max_tokens, targets)
    return update(
        model,
        reference_logprobs(policy(), batches, 1.0, CPU),
        torch.optim.SGD(model.parameters(), lr=lr),
        batches,
        config=config,
        temperature=1.0,
        max_grad_norm=max_grad_norm,
        ranks=Ranks(),
    )
