"""From rows to padded micro-batches. Knows nothing about models or losses.

Arrays of shape [B, T] are about the tokens that go through the model, arrays [B, L] about the sampled ones that they
predict. A trie's tokens lie one branch after another; each sees its own path alone, by way of `attention`, so that
what branches share is computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsd.learn.rows import Row
from tsd.methods.targets import Targets


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B rows, padded on the right to T tokens and L sampled ones."""

    tokens: Tensor
    """int64 [B, T]"""
    positions: Tensor
    """int64 [B, T], tokens before each one on its path."""
    attention: Tensor | None
    """bool [B, 1, T, T], whether a token sees another; None where all are paths, under the causal mask."""
    mask: Tensor
    """bool [B, L]: where there is a sampled token; elsewhere all others are 0."""
    sources: Tensor
    """int64 [B, L]: the place in T that predicts it."""
    sampled: Tensor
    """int64 [B, L]: the token."""
    behaviour: Tensor
    """float32 [B, L]: its behaviour logprob."""
    versions: Tensor
    """int64 [B, L]: the policy version that sampled it."""
    returns: Tensor
    """float32 [B, L]: see `Targets`."""
    advantages: Tensor
    """float32 [B, L]"""

    @property
    def num_tokens(self) -> int:
        """Sampled tokens in it."""
        return int(self.mask.sum())


def share(rows: Sequence[Row], num_parts: int) -> list[list[Row]]:
    """Parts of about equal numbers of tokens: the longest first, each to the part that has least."""
    parts: list[list[Row]] = [[] for _ in range(num_parts)]
    loads = [0] * num_parts
    for one in sorted(rows, key=len, reverse=True):
        least = loads.index(min(loads))
        parts[least].append(one)
        loads[least] += len(one)
    return parts


def collate(rows: Sequence[Row], max_tokens: int) -> list[MicroBatch]:
    """Micro-batches of like lengths, each of at most `max_tokens` with padding (a longer row goes alone)."""
    ordered = sorted(rows, key=len)
    batches: list[MicroBatch] = []
    while ordered:
        count = max(1, min(len(ordered), max_tokens // len(ordered[-1])))
        batches.append(_pad(ordered[-count:]))
        ordered = ordered[:-count]
    return batches


def idle(batch: MicroBatch) -> MicroBatch:
    """One row of a micro-batch with nothing to learn, for a rank that must keep step with others."""
    arrays: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    row = {name: array[:1] for name, array in arrays.items() if array is not None}
    return replace(batch, **row | {"mask": torch.zeros_like(batch.mask[:1])})


def _pad(rows: Sequence[Row]) -> MicroBatch:
    def stack(length: int, kind: type[np.generic], of: Callable[[Row], np.ndarray]) -> Tensor:
        padded = np.zeros((len(rows), length), kind)
        for i, row in enumerate(rows):
            array = of(row)
            padded[i, : len(array)] = array
        return torch.from_numpy(padded)

    def wanted(name: str) -> Tensor:
        return stack(num_sampled, np.float32, lambda row: getattr(row.targets, name))

    num_tokens, num_sampled = max(map(len, rows)), max(len(row.sampled) for row in rows)
    return MicroBatch(
        tokens=stack(num_tokens, np.int64, lambda row: row.tokens),
        positions=stack(num_tokens, np.int64, lambda row: row.positions),
        attention=None if all(row.is_path for row in rows) else _attention(rows, num_tokens),
        mask=stack(num_sampled, np.bool_, lambda row: np.ones(len(row.sampled))),
        sources=stack(num_sampled, np.int64, lambda row: row.sources),
        sampled=stack(num_sampled, np.int64, lambda row: row.sampled),
        behaviour=stack(num_sampled, np.float32, lambda row: row.behaviour),
        versions=stack(num_sampled, np.int64, lambda row: row.versions),
        **{name: wanted(name) for name in Targets.__slots__},
    )


def _attention(rows: Sequence[Row], num_tokens: int) -> Tensor:
    """bool [B, 1, T, T]: whether token i is token j or comes after it on a path."""
    seen = np.tile(np.eye(num_tokens, dtype=np.bool_), (len(rows), 1, 1))
    for row, own in zip(rows, seen, strict=True):
        for i, parent in enumerate(row.parents[1:].tolist(), start=1):
            own[i] |= own[parent]
    return torch.from_numpy(seen[:, None])
