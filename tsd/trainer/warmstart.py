"""Makes the tiny model: supervised learning on random Countdown games, about half of which reach the target.

The start of every experiment, not its subject: it teaches the format, the arithmetic and an idea of where a game leads,
and leaves room to learn. Knows nothing about search or policy gradients.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from tsd.config import EngineConfig, TaskConfig
from tsd.engine.torch_engine import TorchEngine
from tsd.model.policy import Policy
from tsd.model.text import HfCodec
from tsd.model.tiny import tiny_model, tiny_tokenizer
from tsd.tasks.countdown import Countdown, random_response, response

IGNORED = -100
SAMPLES_OF_EACH, MAX_SAMPLE_TOKENS, IN_FLIGHT = 8, 200, 32
MOST_SURE = 1 - 1e-6
"""V as a float32 is at most so near 1."""
Example = tuple[tuple[int, ...], tuple[int, ...], float]
"""Prompt, response and reward."""


class WarmstartConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The recipe of the model in the repository."""

    num_steps: int = 6000
    batch_size: int = 64
    learning_rate: float = 2e-3
    solved_share: float = 0.5
    """Share of the games whose target is the one they reach."""
    num_layers: int = 4
    hidden_size: int = 128
    num_threads: int = 2
    seed: int = 0


def warmstart(directory: Path, config: WarmstartConfig) -> Iterator[str]:
    """Trains and saves the model; yields a line of progress now and then."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.num_threads)
    directory.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer().save_pretrained(str(directory))
    codec, policy = HfCodec(directory), Policy(tiny_model(config.num_layers, config.hidden_size))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.num_steps + 1, pct_start=0.05
    )
    batches, started = _batches(codec, config), time.monotonic()
    policy.train()
    for step in range(1, config.num_steps + 1):
        language, value = _losses(policy, *next(batches))
        optimizer.zero_grad()
        (language + value).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == config.num_steps:
            seconds = time.monotonic() - started
            yield f"step {step}/{config.num_steps}  loss {language:.4f}  value loss {value:.4f}  {seconds:.0f} s"
    policy.save(directory)
    yield scale_value(policy, codec, directory, config)


def scale_value(policy: Policy, codec: HfCodec, directory: Path, config: WarmstartConfig) -> str:
    """Fits V's scale and offset to what the model's own samples come to: half of the games it learned from are right,
    and of its samples far fewer. What V tells apart stays what it was.

    Teaching the head anew on the samples explains a little more of their rewards, and search by it solves less.
    """
    samples = asyncio.run(_own_samples(directory, codec, config))
    if not samples:
        return "too few steps for samples of its own: V is as the games have it"
    outputs, rewards = _value_outputs(policy, samples, config.batch_size)
    scale, offset = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, offset], max_iter=50)

    def error() -> Tensor:
        optimizer.zero_grad()
        loss = (torch.tanh(scale * outputs + offset) - rewards).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = float(error())
    optimizer.step(error)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        policy.value_head.out.weight.mul_(scale)
        policy.value_head.out.bias.mul_(scale).add_(offset)
    policy.save(directory)
    return f"V on {len(samples):,} samples of its own: squared error {before:.3f}, scaled {float(error()):.3f}"


@torch.no_grad()
def _value_outputs(policy: Policy, samples: Sequence[Example], batch_size: int) -> tuple[Tensor, Tensor]:
    """Before each token of the samples: the value head's output before its tanh, and the sample's reward."""
    outputs, rewards = list[Tensor](), list[Tensor]()
    for first in range(0, len(samples), batch_size):
        tokens, labels, worth = _padded(samples[first : first + batch_size])
        values = policy.value_head(policy.causal.model(input_ids=tokens[:, :-1]).last_hidden_state)
        sampled = labels[:, 1:] != IGNORED
        outputs.append(torch.atanh(values.clamp(-MOST_SURE, MOST_SURE))[sampled])
        rewards.append(worth[:, None].expand_as(values)[sampled])
    return torch.cat(outputs), torch.cat(rewards)


async def _own_samples(directory: Path, codec: HfCodec, config: WarmstartConfig) -> list[Example]:
    """Samples of training problems of three and four numbers, at a temperature of 1: one problem for each six steps."""
    task, engine_config = Countdown(TaskConfig(num_numbers=(3, 4))), EngineConfig(num_threads=config.num_threads)
    problems = iter(list(task.problems("train", config.num_steps // 6, config.seed)))
    found = list[Example]()
    engine = TorchEngine(directory, engine_config, temperature=1.0, dtype="float32", seed=config.seed)

    async def worker() -> None:
        for problem in problems:
            prompt = codec.encode_text(task.prompt(problem, "compact"))
            for step in await engine.sample(prompt, SAMPLES_OF_EACH, MAX_SAMPLE_TOKENS):
                reward = task.grade(problem, codec.decode(step.tokens)).reward
                found.append((prompt, step.tokens, reward))

    async with engine, asyncio.TaskGroup() as group:
        for number in range(IN_FLIGHT):
            group.create_task(worker(), name=f"own samples {number}")
    return found


def _losses(policy: Policy, tokens: Tensor, labels: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the response's tokens, and squared error of V at them against the final reward."""
    hidden = policy.causal.model(input_ids=tokens[:, :-1]).last_hidden_state  # [B, T-1, H]
    logits, targets = policy.causal.lm_head(hidden), labels[:, 1:]  # [B, T-1, V], [B, T-1]
    language = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    # V's gradient reaches the trunk. Kept out of it, V explained 1 to 5% of a path's reward and the policy was worse.
    return language, _value_error(policy, hidden, targets, rewards)


def _value_error(policy: Policy, hidden: Tensor, targets: Tensor, rewards: Tensor) -> Tensor:
    """Mean squared error of V at the response's tokens against the final reward."""
    values: Tensor = policy.value_head(hidden)  # [B, T-1]
    return (values - rewards[:, None])[targets != IGNORED].square().mean()


def _batches(codec: HfCodec, config: WarmstartConfig) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of token ids [B, T], labels [B, T] (IGNORED on prompt and padding) and rewards [B]."""
    examples = _examples(codec, config)
    while True:
        yield _padded([next(examples) for _ in range(config.batch_size)])


def _padded(batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [B, T], labels [B, T] and rewards [B]."""
    longest = max(len(prompt) + len(answer) for prompt, answer, _ in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, (prompt, answer, _) in enumerate(batch):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels, torch.tensor([reward for *_, reward in batch])


def _examples(codec: HfCodec, config: WarmstartConfig) -> Iterator[Example]:
    """Prompt, response and reward of one game after another, of training problems with three and four numbers."""
    task, rng = Countdown(TaskConfig(num_numbers=(3, 4))), random.Random(config.seed)
    for epoch in range(1_000_000):
        for problem, game in task.games("train", 20_000, seed=config.seed + epoch):
            solved = rng.random() < config.solved_share
            text = response(game) if solved else random_response(problem, rng)
            prompt = codec.encode_text(task.prompt(problem, "compact"))
            yield prompt, codec.encode_text(text), task.grade(problem, text).reward
