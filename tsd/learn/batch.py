"""From rows to padded micro-batches. Knows nothing about models or losses.

Every array but `tokens` is about predicted tokens: column t is about token t + 1 of `tokens`, which the model predicts
at column `sources` of its output. In a path that is column t itself. A tree's tokens lie one step after another; each
sees its own path alone, by way of `attention`, so that what branches share is computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsd.learn.rows import Row
from tsd.learn.targets import Targets


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B rows, T tokens in the longest, padded on the right."""

    tokens: Tensor
    """int64 [B, T]"""
    sources: Tensor
    """int64 [B, T-1]"""
    positions: Tensor
    """int64 [B, T-1], of tokens 0 to T-2 on their paths."""
    attention: Tensor | None
    """bool [B, 1, T-1, T-1], whether a token sees another; None where all are paths, under the causal mask."""
    behaviour: Tensor
    """float32 [B, T-1]: behaviour logprobs of response tokens, 0 elsewhere."""
    mask: Tensor
    """bool [B, T-1]: where the predicted token is one to learn from."""
    versions: Tensor
    """int64 [B, T-1]: policy version that sampled each response token, -1 elsewhere."""
    values: Tensor
    """float32 [B, T-1]: V of sampling time before each response token, 0 elsewhere."""
    returns: Tensor
    """float32 [B, T-1]"""
    value_returns: Tensor
    """float32 [B, T-1]"""
    advantages: Tensor
    """float32 [B, T-1]"""
    visit_shares: Tensor
    """float32 [B, T-1]"""

    @property
    def num_tokens(self) -> int:
        """Response tokens in it."""
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
    shape = num_rows, longest = len(rows), max(map(len, rows))
    tokens, versions, mask = np.zeros(shape, np.int64), np.full(shape, -1, np.int64), np.zeros(shape, np.bool_)
    floats = {name: np.zeros(shape, np.float32) for name in ("behaviour", "values", *Targets.__slots__)}
    positions = np.tile(np.arange(longest), (num_rows, 1))
    sources = positions - 1
    for i, row in enumerate(rows):
        span = slice(len(row.prompt), len(row))
        tokens[i, : span.start], tokens[i, span] = row.prompt, row.tokens
        versions[i, span], mask[i, span] = row.versions, row.learned
        sources[i, span], positions[i, span] = row.sources, row.positions
        for name, array in floats.items():
            array[i, span] = getattr(row.targets if name in Targets.__slots__ else row, name)
    paths = all(row.is_path for row in rows)
    return MicroBatch(
        tokens=torch.from_numpy(tokens),
        sources=torch.from_numpy(sources[:, 1:]),
        positions=torch.from_numpy(positions[:, :-1]),
        attention=None if paths else torch.from_numpy(np.stack([ancestors(row[:-1]) for row in sources])[:, None]),
        mask=torch.from_numpy(mask[:, 1:]),
        versions=torch.from_numpy(versions[:, 1:]),
        **{name: torch.from_numpy(array[:, 1:]) for name, array in floats.items()},
    )


def ancestors(sources: np.ndarray) -> np.ndarray:
    """bool [T, T]: whether token i is token j or comes after it on a path; `sources` is -1 at the first token."""
    seen = np.eye(len(sources), dtype=np.bool_)
    for i, source in enumerate(sources[1:], start=1):
        seen[i] |= seen[source]
    return seen
