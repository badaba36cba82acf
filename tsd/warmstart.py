"""Makes the tiny model: supervised learning on random Countdown games, about half of which reach the target.

The start of every experiment, not its subject: it teaches the format, the arithmetic and a weak idea of where a game
leads, and leaves room to learn. Knows nothing about search or policy gradients.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from tsd.model.policy import Policy
from tsd.model.text import HfCodec
from tsd.model.tiny import tiny_model, tiny_tokenizer
from tsd.tasks.countdown import Countdown, random_response, response

IGNORED = -100


class WarmstartConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The recipe of the model in the repository."""

    num_steps: int = 3000
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


def _losses(policy: Policy, tokens: Tensor, labels: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the response's tokens, and squared error of V at them against the final reward."""
    hidden = policy.causal.model(input_ids=tokens[:, :-1]).last_hidden_state  # [B, T-1, H]
    logits, targets = policy.causal.lm_head(hidden), labels[:, 1:]  # [B, T-1, V], [B, T-1]
    language = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    # V's gradient reaches the trunk. Kept out of it, V explained 1 to 5% of a path's reward and the policy was worse.
    values = policy.value_head(hidden)  # [B, T-1]
    scored = targets != IGNORED
    errors = (values - rewards[:, None])[scored]
    return language, errors.square().mean()


def _batches(codec: HfCodec, config: WarmstartConfig) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of token ids [B, T], labels [B, T] (IGNORED on prompt and padding) and rewards [B]."""
    examples = _examples(codec, config)
    while True:
        batch = [next(examples) for _ in range(config.batch_size)]
        longest = max(len(prompt) + len(answer) for prompt, answer, _ in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        labels = torch.full((len(batch), longest), IGNORED)
        for row, (prompt, answer, _) in enumerate(batch):
            end = len(prompt) + len(answer)
            tokens[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        yield tokens, labels, torch.tensor([reward for *_, reward in batch])


def _examples(codec: HfCodec, config: WarmstartConfig) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """Prompt, response and reward of one game after another, of training problems with three and four numbers."""
    task, rng = Countdown((3, 4)), random.Random(config.seed)
    for epoch in range(1_000_000):
        for problem, game in task.games("train", 20_000, seed=config.seed + epoch):
            solved = rng.random() < config.solved_share
            text = response(game) if solved else random_response(problem, rng)
            prompt = codec.encode_text(task.prompt(problem, "compact"))
            yield prompt, codec.encode_text(text), task.grade(problem, text).reward
