"""Continuous batched decoding with the trainer's own model class, for the torch engine.

One flat batch of rows, each one sample of some request, all advanced one token a step. Keys and values of a finished
step's prefix are kept, so that a child of a tree's node starts where its parent ended. Synchronous and single-threaded:
knows nothing about asyncio, trees or tasks.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tsd.engine.prefix_cache import PrefixCache
from tsd.model.policy import Policy
from tsd.model.sampling import log_policy
from tsd.types import Finish, Step

GROUPED_ATTENTION = "tsd_grouped"
PREFILL_TOKENS = 8192
"""Most tokens, padding included, in one prefill."""


def _grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention of [B, Hq, T, D] over [B, Hk, L, D] without copying keys for each query head.

    With T = 1 the query heads of a group become its rows; on a CPU that is five times as fast as repeating the keys.
    """
    batch, query_heads, length, size = query.shape
    if length > 1:
        repeat = query_heads // key.shape[1]
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    else:
        grouped = query.view(batch, key.shape[1], -1, size)  # [B, Hk, Hq/Hk, D]
        attended = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.view(batch, query_heads, length, size).transpose(1, 2), None


AttentionInterface.register(GROUPED_ATTENTION, _grouped_attention)


@dataclass(slots=True, eq=False)
class Request:
    """One call of `expand` or `sample`: `num_samples` rows over one state."""

    state: tuple[int, ...]
    num_samples: int
    max_tokens: int
    stops_at_step: bool
    steps: list[Step] = field(default_factory=list)
    value: float = 0.0
    cancelled: bool = False

    @property
    def done(self) -> bool:
        return len(self.steps) == self.num_samples


@dataclass(slots=True, eq=False)
class _Row:
    """One sample under way."""

    request: Request
    version: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class _LayerWriter:
    """What a Hugging Face model sees as its cache: writes new keys and values, and gives back all of the rows' ones."""

    is_compileable = False

    def __init__(self, kv: Tensor, positions: Tensor, used: int) -> None:
        self.kv = kv  # [layers, 2, B, Hk, L, D]
        self.positions = positions  # [B]
        self.used = used
        self.rows = torch.arange(len(positions))

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """`keys` and `values`: [B, Hk, 1, D]; returns [B, Hk, used, D]."""
        for side, new in enumerate((keys, values)):
            self.kv[layer, side][self.rows, :, self.positions] = new[:, :, 0]
        return self.kv[layer, 0, :, :, : self.used], self.kv[layer, 1, :, :, : self.used]

    def get_seq_length(self, *_: Any) -> int:
        return self.used


class Decoder:
    """Rows under way and their keys and values. `advance` is the hot loop."""

    def __init__(
        self,
        policy: Policy,
        finish: Callable[[Sequence[int], bool], Finish | None],
        *,
        temperature: float,
        max_rows: int,
        max_tokens: int,
        cache_bytes: int,
        seed: int,
    ) -> None:
        policy.causal.set_attn_implementation(GROUPED_ATTENTION)
        config = policy.causal.config
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, max_rows, config.num_key_value_heads, max_tokens, head_size)
        self.policy, self.finish, self.temperature = policy, finish, temperature
        self.dtype = next(policy.causal.parameters()).dtype
        self.kv = torch.zeros(shape, dtype=self.dtype)
        self.rows: list[_Row] = []
        self.next_tokens = torch.zeros(max_rows, dtype=torch.long)
        self.lengths = torch.zeros(max_rows, dtype=torch.long)  # tokens whose keys and values are in `kv`
        self.cache = PrefixCache(cache_bytes)
        self.rng = torch.Generator().manual_seed(seed)
        self.version = 0

    @property
    def num_free(self) -> int:
        return len(self.next_tokens) - len(self.rows)

    @property
    def max_tokens(self) -> int:
        return self.kv.shape[4]

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> None:
        """Gives each sample of each request a row, with its prefix's keys and values in place."""
        prefixes = {request.state[:-1] for request in requests if len(request.state) > 1}
        found = {prefix: self.cache.get(prefix) for prefix in prefixes}
        self._prefill(found)
        for request in requests:
            first, last = len(self.rows), len(self.rows) + request.num_samples
            length = len(request.state) - 1
            if length:
                self.kv[:, :, first:last, :, :length] = found[request.state[:-1]].unsqueeze(2)  # type: ignore[union-attr]
            self.next_tokens[first:last] = request.state[-1]
            self.lengths[first:last] = length
            self.rows += [_Row(request, self.version) for _ in range(request.num_samples)]

    @torch.inference_mode()
    def advance(self) -> list[Request]:
        """Every row one token further; returns the requests that are now done."""
        self._drop([i for i, row in enumerate(self.rows) if row.request.cancelled])
        if not self.rows:
            return []
        logits, values = self._forward()
        logprobs = log_policy(logits, self.temperature)  # [B, V]
        sampled = torch.multinomial(logprobs.exp(), 1, generator=self.rng)  # [B, 1]
        chosen = logprobs.gather(1, sampled)[:, 0].tolist()
        self.next_tokens[: len(self.rows)] = sampled[:, 0]
        self.lengths[: len(self.rows)] += 1
        for row, token, logprob, value in zip(self.rows, sampled[:, 0].tolist(), chosen, values.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.values.append(value)
        return self._retire()

    def load(self, load_weights: Callable[[], None], version: int) -> None:
        """New weights. Rows under way go on over the keys and values they have; the prefix cache starts anew."""
        load_weights()
        self.version = version
        self.cache.clear()

    def _forward(self) -> tuple[Tensor, Tensor]:
        """Logits [B, V] and values [B] after every row's next token."""
        batch = len(self.rows)
        positions = self.lengths[:batch]
        used = int(positions.max()) + 1
        seen = torch.arange(used) <= positions[:, None]  # [B, used]
        mask = torch.zeros(batch, 1, 1, used, dtype=self.dtype).masked_fill_(~seen[:, None, None], -torch.inf)
        logits, values = self.policy(
            self.next_tokens[:batch, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=_LayerWriter(self.kv[:, :, :batch], positions, used),
            use_cache=True,
        )
        return logits[:, 0], values[:, 0]

    def _retire(self) -> list[Request]:
        """Takes out the rows that end here."""
        ended: list[int] = []
        done: list[Request] = []
        for i, row in enumerate(self.rows):
            request = row.request
            finish = self.finish(row.tokens, request.stops_at_step)
            full = len(row.tokens) == request.max_tokens or len(request.state) + len(row.tokens) == self.max_tokens
            if finish is None and not full:
                continue
            ended.append(i)
            request.value = row.values[0]
            tokens = tuple(row.tokens)
            logprobs, values = array("f", row.logprobs), array("f", row.values)
            request.steps.append(Step(tokens, logprobs, values, finish or "length", row.version))
            # A row begun under older weights holds their keys and values: no use to anyone from here on.
            if finish == "step" and row.version == self.version:
                length = int(self.lengths[i])
                self.cache.put((request.state + tokens)[:length], self.kv[:, :, i, :, :length].clone())
            if request.done:
                done.append(request)
        self._drop(ended)
        return done

    def _drop(self, gone: list[int]) -> None:
        """Closes the gaps with the last rows, so that the batch stays one block."""
        for i in reversed(gone):
            last = len(self.rows) - 1
            if i != last:
                length = int(self.lengths[last])
                self.kv[:, :, i, :, :length] = self.kv[:, :, last, :, :length]
                self.next_tokens[i], self.lengths[i] = self.next_tokens[last], self.lengths[last]
                self.rows[i] = self.rows[last]
            self.rows.pop()

    def _prefill(self, found: dict[tuple[int, ...], Tensor | None]) -> None:
        """Computes what the cache did not have, several prefixes in one forward pass, and puts it there."""
        missing = sorted((tokens for tokens, kv in found.items() if kv is None), key=len)
        while missing:
            count = max(1, min(len(missing), PREFILL_TOKENS // len(missing[-1])))
            batch, missing = missing[-count:], missing[:-count]
            padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens in batch], batch_first=True)
            length = padded.shape[1]
            mask = torch.full((length, length), -torch.inf, dtype=self.dtype).triu(1)[None, None]
            # Padding is on the right, where no real token looks under a causal mask.
            output = self.policy.causal.model(
                input_ids=padded, attention_mask=mask.expand(len(batch), 1, -1, -1), use_cache=True
            )
            layers = [torch.stack((layer.keys, layer.values)) for layer in output.past_key_values.layers]
            kv = torch.stack(layers)  # [layers, 2, B, Hk, T, D]
            for row, tokens in enumerate(batch):
                own = kv[:, :, row, :, : len(tokens)].clone()
                found[tokens] = own
                self.cache.put(tokens, own)
