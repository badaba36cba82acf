"""Our losses and group advantages against those of TRL's GRPOTrainer: the same weights, tokens and figures.

TRL pads prompts on the left and responses on the right, we pad on the right alone. Its losses "cispo" and "dapo" (PPO's
clip) are sums over tokens divided by the whole batch's count, as ours are once divided. TRL's bias correction, the KL
times the ratio, we do not have: it is off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tests.support.engines import randomise
from tsd.config import CispoConfig, LossConfig, PpoConfig
from tsd.learn.loss import kl_loss, policy_loss
from tsd.methods.groups import group_advantages
from tsd.model.policy import Policy
from tsd.model.sampling import log_policy
from tsd.model.tiny import NUM_ROWS, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.timeout(300),  # TRL imports vLLM where there is one, half a minute on a busy machine.
    # Of that import: TRL names the vLLM versions it knows, and vLLM touches a name that torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:TRL currently supports vLLM versions:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script_method` is deprecated:DeprecationWarning"),
]
TOLERANCE = 1e-5
TEMPERATURE = 0.8
CLIP_LOW, CLIP_HIGH, MAX_RATIO = 0.2, 0.28, 1.5
GROUP_SIZE = 4
LENGTHS = [(3, 9), (7, 2), (5, 14), (11, 1), (6, 6), (4, 11), (9, 5), (8, 8)]
"""Tokens of each trajectory's prompt, and of its response."""
REWARDS = [1.0, -1.0, 0.1, 0.1, -0.5, 0.3, 1.0, -1.0]


@dataclass(frozen=True)
class Batch:
    """Lists of [num_tokens] over the trajectories; advantages [B]."""

    prompts: list[Tensor]
    responses: list[Tensor]
    behaviour: list[Tensor]
    reference: list[Tensor]
    advantages: Tensor


Trainer = Callable[..., Any]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose logits are far from even."""
    directory = tmp_path_factory.mktemp("tiny")
    policy = Policy(tiny_model(num_layers=2, hidden_size=32))
    randomise(policy, seed=0)
    policy.save(directory)
    return directory


@pytest.fixture(scope="module")
def trainer(directory: Path) -> Trainer:
    """Makes TRL's trainer on that model."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def make(rewards: Sequence[float] = REWARDS, **settings: Any) -> Any:
        made = GRPOTrainer(
            str(directory),
            reward_funcs=lambda **_: list(rewards),
            args=GRPOConfig(
                output_dir=str(directory / "trl"),
                use_cpu=True,
                bf16=False,
                report_to="none",
                temperature=TEMPERATURE,
                num_generations=GROUP_SIZE,
                per_device_train_batch_size=len(REWARDS),
                max_completion_length=2,
                **settings,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["1+2"]}),
            processing_class=tiny_tokenizer(),
        )
        made.current_gradient_accumulation_steps = 1  # its training loop would say so
        made.model.train()
        return made

    return make


def advantages_of(rewards: Sequence[float]) -> Tensor:
    """Trajectories in groups of GROUP_SIZE, one after the other."""
    groups = np.array(rewards, np.float32).reshape(-1, GROUP_SIZE)
    return torch.from_numpy(np.concatenate([group_advantages(group) for group in groups]))


@pytest.fixture(scope="module")
def batch(directory: Path) -> Batch:
    """Behaviour and reference so far from the policy that ratios are clipped on both sides."""
    generator = torch.Generator().manual_seed(0)
    policy = Policy.load(directory)
    prompts, responses, behaviour, reference = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    for num_prompt, num_tokens in LENGTHS:
        tokens = torch.randint(6, NUM_ROWS, (num_prompt + num_tokens,), generator=generator)
        with torch.no_grad():
            logprobs = predicted(policy, tokens[None])[0, num_prompt - 1 :]
        prompts.append(tokens[:num_prompt])
        responses.append(tokens[num_prompt:])
        all_of_it, each, anchor = (torch.randn(size, generator=generator) for size in (1, num_tokens, num_tokens))
        behaviour.append(logprobs + 0.5 * all_of_it + 0.5 * each)
        reference.append(logprobs + 0.5 * anchor)
    return Batch(prompts, responses, behaviour, reference, advantages_of(REWARDS))


def predicted(policy: Policy, tokens: Tensor) -> Tensor:
    """Logprobs of tokens[:, 1:]."""
    logits, _ = policy(tokens[:, :-1], use_cache=False)
    return log_policy(logits, TEMPERATURE).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def right(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True)


def left(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_side="left")


def theirs(trainer: Any, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """TRL's loss, and its gradients by parameter."""
    inputs = {
        "prompt_ids": left(batch.prompts),
        "prompt_mask": left([torch.ones_like(row) for row in batch.prompts]),
        "completion_ids": right(batch.responses),
        "completion_mask": right([torch.ones_like(row) for row in batch.responses]),
        "advantages": batch.advantages,
        "old_per_token_logps": right(batch.behaviour),
        "ref_per_token_logps": right(batch.reference),
        "num_items_in_batch": torch.tensor(sum(map(len, batch.responses))),
    }
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


def ours(policy: Policy, batch: Batch, config: LossConfig) -> tuple[float, dict[str, Tensor], Tensor]:
    """Our loss, its gradients by parameter, and the ratios [B, T], 1 where there is none."""

    def at_predictions(rows: Sequence[Tensor]) -> Tensor:
        before = (
            torch.zeros(len(prompt) - 1, dtype=row.dtype) for prompt, row in zip(batch.prompts, rows, strict=True)
        )
        return right([torch.cat(parts) for parts in zip(before, rows, strict=True)])

    tokens = right([torch.cat(parts) for parts in zip(batch.prompts, batch.responses, strict=True)])
    mask = at_predictions([torch.ones_like(row, dtype=torch.bool) for row in batch.responses])
    behaviour, reference = at_predictions(batch.behaviour), at_predictions(batch.reference)
    logprobs = predicted(policy, tokens)
    advantages = batch.advantages[:, None].expand_as(logprobs)

    actor = policy_loss(logprobs, behaviour, advantages, mask, config)
    loss = (actor + config.c_kl * kl_loss(logprobs, reference, mask)) / mask.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in policy.causal.named_parameters()}
    log_ratio = (logprobs - behaviour).masked_fill(~mask, 0.0)
    return loss.item(), gradients, log_ratio.exp()


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["cispo", "dapo"])
def test_loss_and_gradients_are_those_of_trl(
    directory: Path, trainer: Trainer, batch: Batch, kind: str, beta: float
) -> None:
    config: LossConfig = PpoConfig(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, c_kl=beta)
    if kind == "cispo":
        config = CispoConfig(max_ratio=MAX_RATIO, c_kl=beta)
    settings = {"loss_type": kind, "beta": beta, "use_bias_correction_kl": False}
    epsilon_high = MAX_RATIO if kind == "cispo" else CLIP_HIGH  # TRL's ceiling of CISPO is no distance from 1
    loss, expected = theirs(trainer(epsilon=CLIP_LOW, epsilon_high=epsilon_high, **settings), batch)
    found, gradients, ratios = ours(Policy.load(directory), batch, config)
    assert gradients.keys() == expected.keys()
    difference = max((gradients[name] - expected[name]).abs().max().item() for name in expected)
    print(f"\nTRL parity: {kind} beta {beta}: loss {abs(found - loss):.1e}, gradient {difference:.1e}")
    assert max(abs(found - loss), difference) <= TOLERANCE
    # Not by being nothing, nor by staying within the clips.
    assert max(gradient.abs().max().item() for gradient in gradients.values()) > 1e-2
    gains = batch.advantages[:, None] > 0
    assert (gains & (ratios > MAX_RATIO)).any()
    assert (~gains & (ratios < 1 - CLIP_LOW)).any()


@pytest.mark.parametrize("rewards", [REWARDS, [0.1] * 4 + [1.0, -1.0, -1.0, -1.0]], ids=["all differ", "equals"])
def test_group_advantages_are_those_of_trl(trainer: Trainer, rewards: list[float]) -> None:
    groups = [f"{number // GROUP_SIZE}+1" for number in range(len(rewards))]
    # It samples a response to each prompt, has them graded, and normalises.
    batch = trainer(rewards)._generate_and_score_completions([{"prompt": group} for group in groups])
    difference = (advantages_of(rewards) - batch["advantages"]).abs().max().item()
    print(f"\nTRL parity: group advantages {difference:.1e}")
    assert difference <= TOLERANCE
