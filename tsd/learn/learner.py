"""Learners: what the trainer drives. `PolicyLearner` trains a language model; `MockLearner` stands in for one.

A learner knows how to learn from a batch, give out its weights, and save and load itself; nothing about sockets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch

from tsd.config import Config
from tsd.learn.batch import collate, weigh
from tsd.learn.group import Group
from tsd.learn.health import Stats
from tsd.learn.update import update
from tsd.model.files import MOCK_FILE
from tsd.model.policy import Policy
from tsd.model.text import HfCodec
from tsd.types import Trajectory, WeightUpdate

OPTIMIZER_FILE = "optimizer.pt"


class Learner(Protocol):
    """What the trainer needs of one."""

    def learn(self, trajectories: Sequence[Trajectory], version: int) -> Stats | None:
        """One batch; `version` is the last one published. None where the loss was not finite and nothing changed."""
        ...

    def weights(self, version: int) -> WeightUpdate: ...

    def save(self, directory: Path) -> None: ...


class PolicyLearner:
    """PPO or CISPO with AdamW on a `Policy`. Every rank holds the whole model and sees its share of each batch.

    `model.dtype` is the precision of the forward pass alone.
    """

    def __init__(self, config: Config, start: Path, checkpoint: Path | None, group: Group) -> None:
        self.config, self.group = config, group
        torch.manual_seed(config.seed)
        source = checkpoint or start
        self.codec = HfCodec(source)
        # Weights are float32 whatever the engines use: a step of 5e-6 is lost in a bfloat16 weight.
        self.policy = Policy.load(source).to(group.device)
        self.reference = Policy.load(start).to(group.device) if config.loss.c_kl else None
        train = config.train
        self.loss = config.loss
        if config.loss.advantage == "auto":
            advantage = "group" if config.method == "cispo" else "value"
            self.loss = msgspec.structs.replace(config.loss, advantage=advantage)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
        )
        if checkpoint is not None:
            state = torch.load(checkpoint / OPTIMIZER_FILE, map_location=group.device, weights_only=True)
            self.optimizer.load_state_dict(state)

    def learn(self, trajectories: Sequence[Trajectory], version: int) -> Stats | None:
        train, group = self.config.train, self.group
        batches = collate(weigh(trajectories)[group.rank :: group.size], train.micro_batch_tokens)
        low_precision = self.config.model.dtype == "bfloat16"
        stats = None
        for _ in range(train.num_inner_steps):
            with torch.autocast(group.device.type, torch.bfloat16, enabled=low_precision):
                stats = update(
                    self.policy,
                    self.reference,
                    self.optimizer,
                    batches,
                    config=self.loss,
                    temperature=self.config.engine.temperature,
                    max_grad_norm=train.max_grad_norm,
                    own_version=version,
                    group=group,
                )
            if stats is None:
                break
        return stats

    def weights(self, version: int) -> WeightUpdate:
        return self.policy.weights(version)

    def save(self, directory: Path) -> None:
        self.policy.save(directory)
        self.codec.tokenizer.save_pretrained(str(directory))
        torch.save(self.optimizer.state_dict(), directory / OPTIMIZER_FILE)


class MockLearner:
    """Moves the mock engine's one weight, the chance of a good step, up with the share of exact answers it sees."""

    RATE = 0.05

    def __init__(self, config: Config, checkpoint: Path | None) -> None:
        self.solve_rate = config.engine.mock_solve_rate
        if checkpoint is not None:
            self.solve_rate = msgspec.json.decode((checkpoint / MOCK_FILE).read_bytes(), type=float)

    def learn(self, trajectories: Sequence[Trajectory], version: int) -> Stats:
        exact = sum(trajectory.grade.exact for trajectory in trajectories) / len(trajectories)
        before, self.solve_rate = self.solve_rate, self.solve_rate + self.RATE * exact * (1 - self.solve_rate)
        return Stats(
            loss=1 - exact,
            policy_loss=1 - exact,
            value_loss=0.0,
            kl=0.0,
            entropy=0.0,
            effective_sample_share=1.0,
            ratio_quantiles=(1.0, 1.0, 1.0),
            ratio_masked_share=0.0,
            explained_variance=None,
            ratio_mean=1.0,
            logprob_gap=None,
            grad_norm=self.solve_rate - before,
        )

    def weights(self, version: int) -> WeightUpdate:
        return WeightUpdate(version, {"solve_rate": np.array([self.solve_rate], np.float32)})

    def save(self, directory: Path) -> None:
        (directory / MOCK_FILE).write_bytes(msgspec.json.encode(self.solve_rate))
