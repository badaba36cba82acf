"""The policy: a Hugging Face causal model with a value head beside it.

The one model class of tsd: the trainer updates it and the torch engine decodes with it; the vLLM plug-in loads the same
value head. Knows nothing about sampling, losses or files other than its own two.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from tsd.config import HeadDtype
from tsd.errors import WeightsError
from tsd.model.files import HEAD_PREFIX, SUPPORTED_MODEL_TYPES, VALUE_HEAD_FILE
from tsd.model.sampling import log_policy
from tsd.model.tensors import Shape, check_tensors, fault
from tsd.types import WeightUpdate

logging.disable_progress_bar()  # of every file that is read or written, among what a command prints

CHUNK_TOKENS = 512
"""Tokens whose logits exist at once in `Policy.score`: 311 MB in float32 over 151,936 rows."""


def own_device() -> torch.device:
    """The GPU that this process was given, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


class ValueHead(nn.Module):
    """V(s) in (-1, 1) from the model's last hidden state, after the model's own final norm. Always float32."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, dtype=torch.float32)
        self.hidden = nn.Linear(hidden_size, hidden_size, dtype=torch.float32)
        self.out = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden_size] to [...]."""
        with torch.autocast(hidden.device.type, enabled=False):
            x = self.norm(hidden.float())
            x = nn.functional.silu(self.hidden(x))
            return torch.tanh(self.out(x).squeeze(-1))


class Policy(nn.Module):
    """Next-token logits and state values over one trunk."""

    forward_dtype: torch.dtype | None = None
    """Precision of the trunk's products where that is not the weights': bfloat16 over float32, in training."""
    head_dtype: HeadDtype = "float32"
    """Precision of the output layer's product: float32, or what the trunk computes in."""

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        self.value_head = ValueHead(int(causal.config.hidden_size))

    @classmethod
    def load(cls, directory: Path, dtype: str = "float32") -> Self:
        """Reads a model directory; a missing value head starts at V = 0. Raises ValueError as `look_over` does."""
        cls.look_over(directory)
        policy = cls(
            AutoModelForCausalLM.from_pretrained(str(directory), dtype=getattr(torch, dtype), use_safetensors=True)
        )
        policy.load_value_head(directory)
        return policy.eval()

    @classmethod
    def look_over(cls, directory: Path) -> dict[str, Shape]:
        """The shapes of the tensors of the model in a directory, named as `named_tensors` does; loads none.

        Raises ValueError for an architecture that tsd's engines do not serve, and for files without the whole model.
        """
        try:
            config = AutoConfig.from_pretrained(str(directory))
        except Exception as error:
            raise fault(directory / "config.json", f"cannot be read ({str(error).strip().splitlines()[0]})") from error
        if config.model_type not in SUPPORTED_MODEL_TYPES:
            raise ValueError(
                f"{directory} is a {config.model_type!r} model; tsd serves {', '.join(SUPPORTED_MODEL_TYPES)}"
            )
        with torch.device("meta"):
            policy = cls(AutoModelForCausalLM.from_config(config))
        shapes = {name: tuple(tensor.shape) for name, tensor in policy.named_tensors().items()}
        check_tensors(directory, shapes)
        return shapes

    def load_value_head(self, directory: Path) -> None:
        """The value head of a model directory, where it has one."""
        if (directory / VALUE_HEAD_FILE).is_file():
            state = load_file(directory / VALUE_HEAD_FILE)
            self.value_head.load_state_dict({name.removeprefix(HEAD_PREFIX): t for name, t in state.items()})

    def save(self, directory: Path, tensors: dict[str, Tensor] | None = None) -> None:
        """Writes what `AutoModelForCausalLM` and `load` read; `tensors` instead of its own where it holds but a part.

        The tokenizer is its owner's to save.
        """
        tensors = self.named_tensors() if tensors is None else tensors
        head = {name: t.contiguous() for name, t in tensors.items() if name.startswith(HEAD_PREFIX)}
        trunk = {name: t for name, t in tensors.items() if name not in head}
        self.causal.save_pretrained(str(directory), state_dict=trunk)
        save_file(head, directory / VALUE_HEAD_FILE)

    def forward(self, tokens: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Token ids [B, T] to float32 logits [B, T, V] and values [B, T]. `kwargs` go to the trunk as they are."""
        hidden = self._hidden(tokens, **kwargs)
        return self.logits(hidden), self.value_head(hidden)

    def score(
        self,
        tokens: Tensor,
        sources: Tensor,
        sampled: Tensor,
        temperature: float,
        *,
        value_reaches_trunk: bool = True,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the policy says of the tokens `sampled` [B, L], each predicted at its place in `sources` [B, L].

        Token ids are [B, T]. Returns logprobs at the sampling temperature, values and entropies, float32 [B, L]. The
        logits of a few hundred tokens exist at a time, and are computed again for the gradients.
        """
        hidden = self._hidden(tokens, **kwargs)
        hidden = hidden[torch.arange(len(tokens), device=tokens.device)[:, None], sources]  # [B, L, H]
        values = self.value_head(hidden if value_reaches_trunk else hidden.detach())
        flat, targets = hidden.flatten(0, 1), sampled.flatten()
        chunks = zip(torch.split(flat, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True)
        scored = [checkpoint(self._score_chunk, *chunk, temperature, use_reentrant=False) for chunk in chunks]
        logprobs, entropies = (torch.cat(parts).view_as(sampled) for parts in zip(*scored, strict=True))
        return logprobs, values, entropies

    def logits(self, hidden: Tensor) -> Tensor:
        """Last hidden states [..., H] to float32 logits [..., V], by the sums that an engine makes.

        In bfloat16 both factors are rounded to it; with `head_dtype` `float32` their products' sums are not.
        """
        head = self.causal.lm_head
        if self.head_dtype == "model":
            with self._autocast(hidden.device):
                return head(hidden).float()  # type: ignore[no-any-return]
        weight = head.weight
        if self.forward_dtype is not None:
            hidden, weight = hidden.to(self.forward_dtype), weight.to(self.forward_dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), weight.float(), head.bias)

    def _autocast(self, device: torch.device) -> torch.autocast:
        """The forward pass's precision. A cast that it kept would outlive the optimizer step that changes its weight:
        it keeps none."""
        mixed = self.forward_dtype is not None
        return torch.autocast(device.type, self.forward_dtype, enabled=mixed, cache_enabled=False)

    def _hidden(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        """Token ids [B, T] to last hidden states [B, T, H]."""
        with self._autocast(tokens.device):
            return self.causal.model(input_ids=tokens, **kwargs).last_hidden_state  # type: ignore[no-any-return]

    def _score_chunk(self, hidden: Tensor, sampled: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Hidden states [N, H] to logprobs of `sampled` [N], and entropies [N], which have no gradient."""
        log_probs = log_policy(self.logits(hidden), temperature)  # [N, V]
        with torch.no_grad():
            entropies = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs.gather(1, sampled[:, None])[:, 0], entropies

    def tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return bool(self.causal.config.tie_word_embeddings)

    def weights(self, version: int, dtype: str = "float32") -> WeightUpdate:
        """Every tensor as numpy, under the names of a Hugging Face checkpoint, `value_head.*` beside."""
        return weight_update(version, self.named_tensors(), dtype)

    def named_tensors(self) -> dict[str, Tensor]:
        """The model's own tensors; a tied output layer is the embedding, and is named once."""
        state = dict(self.causal.state_dict())
        if self.tied():
            state.pop("lm_head.weight", None)
        return state | {f"{HEAD_PREFIX}{name}": t for name, t in self.value_head.state_dict().items()}

    @torch.no_grad()
    def load_weights(self, update: WeightUpdate) -> None:
        """Copies an update in. Raises WeightsError, before changing anything, when names or shapes differ."""
        own = self.named_tensors()
        expected, found = ({n: tuple(t.shape) for n, t in side.items()} for side in (own, update.tensors))
        if expected != found:
            wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise WeightsError(
                f"update {update.version} is for another model: {len(wrong)} tensors differ, e.g. {wrong[0]}"
            )
        for name, tensor in own.items():
            tensor.copy_(as_tensor(update.tensors[name]))


def weight_update(version: int, tensors: dict[str, Tensor], dtype: str = "float32") -> WeightUpdate:
    """Tensors as they travel: on the CPU, copied, and in an engine's `model.dtype`, float32 or bfloat16; the value head
    is float32 in any. It is rounded here and nowhere else, so that both ends have the same bits."""
    return WeightUpdate(
        version,
        {name: _as_array(t, "float32" if name.startswith(HEAD_PREFIX) else dtype) for name, t in tensors.items()},
    )


def _as_array(tensor: Tensor, dtype: str) -> np.ndarray:
    # In huge pages, which torch has not.
    array = np.empty(tensor.shape, np.uint16 if dtype == "bfloat16" else np.float32)
    as_torch = torch.from_numpy(array)
    (as_torch.view(torch.bfloat16) if dtype == "bfloat16" else as_torch).copy_(tensor.detach())
    return array


def as_tensor(array: np.ndarray) -> Tensor:
    """A copy of an update's tensor: float32, or bfloat16 where the array holds its bits."""
    tensor = torch.tensor(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
