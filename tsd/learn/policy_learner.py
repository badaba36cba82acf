"""The learner of a language model: PPO or CISPO with AdamW.

Every rank makes the same calls in the same order. Knows nothing about sockets.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, assert_never

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from tsd.config import Config, ModelConfig, TrainConfig
from tsd.learn.batch import MicroBatch, collate, idle, share
from tsd.learn.probe import Probe
from tsd.learn.ranks import WHOLE, Ranks
from tsd.learn.rows import Row, lay_out
from tsd.learn.update import reference_logprobs, update
from tsd.methods import make_method
from tsd.model.files import HEAD_PREFIX, OPTIMIZER_FILE
from tsd.model.lora import add_adapters, learned, load_adapters, merged, save_adapters
from tsd.model.policy import Policy, weight_update
from tsd.model.text import HfCodec
from tsd.types import Stats, Trajectory, WeightUpdate

LOGPROB_GAP = "logprob_gap"
PROBE_EVERY = 8
"""Updates between two versions whose logprobs are compared with the engine's."""


class PolicyLearner:
    """PPO or CISPO with AdamW on a `Policy`. Every rank holds a part of the model and sees its share of each batch.

    `model.dtype` is the precision of the forward pass, and of the weights given out; its own are float32.
    """

    def __init__(self, config: Config, start: Path, checkpoint: Path | None, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        torch.manual_seed(config.seed)
        self.codec = HfCodec(checkpoint or start)
        self.policy = ranks.shard(in_precision(load_policy(start, checkpoint, config.train.lora_rank), config.model))
        self.reference = ranks.shard(in_precision(Policy.load(start), config.model)) if config.loss.c_kl else None
        self.method = make_method(config.method)
        train = config.train
        if train.activation_checkpointing:
            self.policy.causal.gradient_checkpointing_enable({"use_reentrant": False})
            self.policy.train()  # where alone it takes effect; nothing else in a policy depends on it
        self.optimizer = torch.optim.AdamW(
            [{"params": learning(self.policy.causal)}, {"params": learning(self.policy.value_head)}],
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            fused=ranks.device.type == "cuda",
        )
        self.probed = -PROBE_EVERY
        """The update before which a copy was last kept."""
        self.probe = Probe(self.policy, ranks, config.engine.temperature, train.micro_batch_tokens)
        if checkpoint is not None:
            self._load_optimizer(checkpoint / OPTIMIZER_FILE)

    @property
    def vocabulary(self) -> int:
        return int(self.policy.causal.config.vocab_size)

    def learn(self, trajectories: Sequence[Trajectory], version: int, number: int) -> Stats | None:
        train, temperature, device = self.config.train, self.config.engine.temperature, self.ranks.device
        rows = lay_out(trajectories, self.method.targets, train.row_tokens)
        batches = self._batches(rows)
        if number % train.publish_every == 0 and number - self.probed >= PROBE_EVERY:
            self.probe.keep(version)
            self.probed = number
        self.probe.measure(rows)
        model, value_head = self.optimizer.param_groups
        model["lr"] = learning_rate(train, number)
        value_head["lr"] = train.value_rate * model["lr"]
        stats = None
        anchors: Sequence[Tensor | None] = [None] * len(batches)
        if self.reference is not None:
            anchors = reference_logprobs(self.reference, batches, temperature, device)
        for _ in range(train.num_inner_steps):
            stats = update(
                self.policy,
                anchors,
                self.optimizer,
                batches,
                config=self.config.loss,
                temperature=temperature,
                max_grad_norm=train.max_grad_norm,
                ranks=self.ranks,
            )
            if stats is None:
                return None
        assert stats is not None, "there is at least one inner step"
        return msgspec.structs.replace(stats, logprob_gap=self.probe.gap, num_tokens_computed=sum(map(len, rows)))

    def _batches(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """This rank's micro-batches, as many as any other's: ranks go through the model together."""
        ranks, train = self.ranks, self.config.train
        parts = [collate(part, train.micro_batch_tokens) for part in share(rows, ranks.size)]
        own = parts[ranks.rank]
        return own + [idle(parts[0][0])] * (max(map(len, parts)) - len(own))

    def weights(self, version: int) -> WeightUpdate:
        tensors = self.ranks.gather(self.policy)
        if self.config.train.lora_rank:  # few, and a generator has the rest; as they are, to be merged as they are here
            return weight_update(version, learned(tensors), "float32")
        return weight_update(version, tensors, self.config.model.dtype)

    def save(self, directory: Path) -> None:
        tensors = self.ranks.gather(self.policy)
        whole = get_optimizer_state_dict(self.policy, self.optimizer, options=WHOLE)
        if self.ranks.rank == 0:
            with _disk_errors():
                self.policy.save(directory, merged(tensors))
                if self.config.train.lora_rank:
                    save_adapters(tensors, directory)
                self.codec.tokenizer.save_pretrained(str(directory))
                _save_moments(whole, directory / OPTIMIZER_FILE, {LOGPROB_GAP: json.dumps(self.probe.gap)})
        self.probe.drop()  # a run that goes on from here has no copy either
        self.probed = -PROBE_EVERY

    def _load_optimizer(self, path: Path) -> None:
        """AdamW's moments; its settings are the configuration's."""
        state: dict[str, Any] = {}
        with safe_open(path, "pt") as file:
            self.probe.gap = json.loads(file.metadata()[LOGPROB_GAP])
            for key in file.keys():  # noqa: SIM118
                name, _, kind = key.rpartition(" ")
                state.setdefault(name, {})[kind] = file.get_tensor(key)
        head = [name for name in state if name.startswith(HEAD_PREFIX)]
        model = [name for name in state if name not in head]
        groups = [
            {**group, "params": names} for group, names in zip(self.optimizer.param_groups, (model, head), strict=True)
        ]
        whole: dict[str, Any] = {"state": state, "param_groups": groups}
        set_optimizer_state_dict(self.policy, self.optimizer, whole, options=WHOLE)


def _save_moments(whole: Any, path: Path, metadata: dict[str, str]) -> None:
    """A `get_optimizer_state_dict` as a file of tensors alone."""
    moments = {f"{name} {kind}": t for name, kinds in whole["state"].items() for kind, t in kinds.items()}
    save_file(moments, path, metadata)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turns what safetensors says of a disk that takes no more into the OSError that it is."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error).partition("\n")[0]) from error


def load_policy(start: Path, checkpoint: Path | None, lora_rank: int) -> Policy:
    """The policy to train, from where training stands. Its weights are float32 whatever the engines use: a step of
    5e-6 is lost in a bfloat16 weight."""
    if not lora_rank:
        return Policy.load(checkpoint or start)
    policy = Policy.load(start)
    add_adapters(policy, lora_rank)
    if checkpoint is not None:
        Policy.look_over(checkpoint)
        load_adapters(policy, checkpoint)
        policy.load_value_head(checkpoint)
    return policy


def in_precision(policy: Policy, config: ModelConfig) -> Policy:
    """The policy, its forward pass in the engines' precision."""
    policy.forward_dtype = torch.bfloat16 if config.dtype == "bfloat16" else None
    policy.head_dtype = config.head_dtype
    return policy


def learning(module: nn.Module) -> list[nn.Parameter]:
    """What of a module is trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def learning_rate(train: TrainConfig, number: int) -> float:
    """For the update of that number, from 0: up to full over the warm-up, then as `decay` says, to 0 at the end."""
    full = train.learning_rate * min(1.0, (number + 1) / (train.warmup_updates + 1))
    left = 1 - number / train.num_updates
    if train.decay == "constant":
        return full
    if train.decay == "linear":
        return full * left
    if train.decay == "cosine":
        return full * (1 - math.cos(math.pi * left)) / 2
    assert_never(train.decay)


def set_up_torch(config: Config) -> None:
    """This process's threads, and how it multiplies."""
    torch.set_num_threads(config.train.num_threads)
    if config.model.dtype == "bfloat16":
        # On a GPU: TF32 holds bfloat16's values exactly, and their sums are float32; 1.7 times as quick on an H100.
        torch.set_float32_matmul_precision("high")
