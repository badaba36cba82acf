"""vLLM's causal models with tsd's value head, and how they take new weights. Runs inside vLLM's own processes.

Knows nothing about requests: vLLM's ordinary logprob channel carries values out. A value model's vocabulary has one
row more than the checkpoint's. Its logits are log pi(. | state) at the sampling temperature, so that a sampled
token's raw logit is its behaviour logprob; the last column is V(state) - VALUE_SHIFT, which as a log-probability is
never sampled.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from tsd.engine.vllm_plugin import TEMPERATURE, VALUE_SHIFT
from tsd.model.files import HEAD_PREFIX, VALUE_HEAD_FILE
from tsd.model.policy import ValueHead

VOCABULARY_TENSORS = ("model.embed_tokens.weight", "lm_head.weight")


class _ValueModel:
    """Mixed into a causal model of vLLM, before it."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        config = vllm_config.model_config.hf_config
        self.temperature = float(getattr(config, TEMPERATURE))
        self.num_tokens = int(config.vocab_size) - 1
        self.value_head_file = Path(vllm_config.model_config.model) / VALUE_HEAD_FILE
        self.value_head = ValueHead(int(config.hidden_size))

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Last hidden states [N, H] to float32 logits [N, num_tokens + 1]: log pi of every token, then V, shifted.

        In place: at 151,937 columns each copy costs as much as the rest of the sampler.
        """
        logits = super().compute_logits(hidden_states)  # type: ignore[misc]
        if logits is None:
            return None
        logits = logits[:, : self.num_tokens + 1].float()
        if self.temperature != 1.0:
            logits /= self.temperature
        logits[:, -1] = -torch.inf  # the extra row of the vocabulary, which is no token
        logits -= logits.logsumexp(-1, keepdim=True)
        logits[:, -1] = self.value_head(hidden_states) - VALUE_SHIFT
        return logits  # type: ignore[no-any-return]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Takes a checkpoint's tensors, or an update's."""
        loaded: set[str] = super().load_weights(self._complete(weights))  # type: ignore[misc]
        # Without a file the head keeps V = 0, which vLLM would report as weights that are missing.
        return loaded | {f"{HEAD_PREFIX}{name}" for name, _ in self.value_head.named_parameters()}

    def _complete(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """`weights` with the vocabulary's extra row; the value head's file follows where they lack the head."""
        has_head = False
        for name, tensor in weights:
            has_head |= name.startswith(HEAD_PREFIX)
            yield name, pad(tensor, (0, 0, 0, 1)) if name in VOCABULARY_TENSORS else tensor
        # vLLM reads only what a sharded checkpoint's index names, and the index does not name the head's file.
        if not has_head and self.value_head_file.is_file():
            for name, tensor in load_file(self.value_head_file).items():
                yield HEAD_PREFIX + name.removeprefix(HEAD_PREFIX), tensor


class TsdQwen2ForCausalLM(_ValueModel, Qwen2ForCausalLM):  # type: ignore[misc]
    """Qwen2 and Qwen2.5."""


class TsdQwen3ForCausalLM(_ValueModel, Qwen3ForCausalLM):  # type: ignore[misc]
    """Qwen3, dense."""


class TsdLlamaForCausalLM(_ValueModel, LlamaForCausalLM):  # type: ignore[misc]
    """Llama, and what has its architecture."""


class WeightsExtension:
    """Mixed into vLLM's worker class, which is the `self` of these methods."""

    def load_tsd_weights(self, path: str) -> None:
        """Replaces every weight by the one of its name in a safetensors file."""
        worker: Any = self
        with safe_open(path, "pt") as file:
            worker.reload_weights(weights_iterator=((name, file.get_tensor(name)) for name in file.keys()))  # noqa: SIM118
        # On a CPU the output layer multiplies by a packed copy of its weight. A reload leaves the copy as it was where
        # the weight is the embedding's.
        lm_head = worker.get_model().lm_head
        lm_head.quant_method.process_weights_after_loading(lm_head)
