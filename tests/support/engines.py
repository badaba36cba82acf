"""Small random models on disk, the engines that serve them, and Hugging Face's own numbers to hold engines to."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tsd.config import EngineConfig
from tsd.doctor.parity import differences
from tsd.model.files import VALUE_HEAD_FILE
from tsd.model.policy import Policy
from tsd.model.text import HfCodec
from tsd.model.tiny import NUM_ROWS, tiny_tokenizer
from tsd.types import Engine, Step

CONFIG = EngineConfig(max_sequences=64, max_model_tokens=256, cache_mb=64)
SPLIT_TOKENS = ("<pad>", "<eos>", "</st", "ep>", "ep>1", "</ans", "wer>", "wer>1", *"0123456+")


def split_tokenizer() -> Any:
    """Each stop tag is two tokens, and may end inside one: `</st` `ep>1`."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPLIT_TOKENS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("</st|</ans|ep>1?|wer>1?|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@dataclass(frozen=True)
class Case:
    """A model to serve, and how. Between them the cases hold every trap of a checkpoint that we know of."""

    name: str
    config_class: Any
    model_class: Any
    tied: bool
    temperature: float
    tokenizer: Callable[[], Any] = tiny_tokenizer
    num_rows: int = NUM_ROWS
    sharded: bool = False
    has_head: bool = True
    eager: bool = True
    """Compiled kernels take vLLM half a minute more; one case has them."""


CASES = (
    Case("qwen2-tied", Qwen2Config, Qwen2ForCausalLM, tied=True, temperature=0.8),
    Case("qwen3-untied-sharded", Qwen3Config, Qwen3ForCausalLM, tied=False, temperature=1.0, sharded=True, eager=False),
    Case(
        "llama-split-tags-no-head-no-spare-row",
        LlamaConfig,
        LlamaForCausalLM,
        tied=False,
        temperature=0.8,
        tokenizer=split_tokenizer,
        num_rows=len(SPLIT_TOKENS),
        has_head=False,
    ),
)


def make_model(case: Case, directory: Path) -> Policy:
    """Writes a random model as any Hugging Face checkpoint is written."""
    config = case.config_class(
        vocab_size=case.num_rows,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=case.tied,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    policy = Policy(case.model_class(config)).eval()
    randomise(policy, seed=0)
    policy.save(directory)
    case.tokenizer().save_pretrained(str(directory))
    if case.sharded:
        for file in directory.glob("model*.safetensors"):
            file.unlink()
        policy.causal.save_pretrained(str(directory), max_shard_size="300KB")
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1
    if not case.has_head:
        (directory / VALUE_HEAD_FILE).unlink()
    return Policy.load(directory)


@torch.no_grad()
def randomise(policy: Policy, seed: int) -> None:
    """Other weights, large enough that old ones would show."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.1
        parameter.copy_(noise if parameter.ndim == 2 else noise + (parameter.mean() > 0.5))


@dataclass
class Served:
    """An engine, and Hugging Face's model with the weights it should have."""

    kind: str
    case: Case
    engine: Engine
    policy: Policy
    codec: HfCodec

    async def update(self, seed: int) -> None:
        randomise(self.policy, seed)
        await self.engine.load(self.policy.weights(self.engine.version + 1))

    def prompts(self, count: int, num_tokens: int = 12, seed: int = 0) -> list[tuple[int, ...]]:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(6, len(SPLIT_TOKENS), (count, num_tokens), generator=generator).tolist()
        return [tuple(row) for row in rows]

    def differences(self, state: Sequence[int], steps: Sequence[Step]) -> tuple[float, float]:
        """The largest of logprobs and of values, over every position of every step."""
        found = list(differences(self.policy, state, steps, self.case.temperature))
        return max(logprob for logprob, _ in found), max(value for _, value in found)


def make_engine(kind: str, case: Case, directory: Path, top_p: float = 1.0) -> Engine:
    options: dict[str, Any] = {"temperature": case.temperature, "dtype": "float32", "seed": 0, "top_p": top_p}
    if kind == "torch":
        from tsd.engine.torch_engine import TorchEngine

        return TorchEngine(directory, CONFIG, **options)
    from tsd.engine.vllm_engine import VllmEngine

    return VllmEngine(directory, msgspec.structs.replace(CONFIG, eager=case.eager), **options)
