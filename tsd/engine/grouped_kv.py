"""Keys and values of the sequences under way, in groups of samples that share their prefix, and attention over them.

A group's prefix is held once, followed by the samples' own tokens in turn; a mask says which of them each sample sees.
So one product serves a whole group, and the prefix is read once for all of it. Knows nothing about requests or models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

GROUP_SIZE = 4
"""Most samples in a group. Products grow with it, the copies of the prefix shrink."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of a batch that attend in one call: where each one's query stands, and what the queries see."""

    groups: slice | Tensor  # n of them
    places: Tensor  # [tokens], below n * width
    mask: Tensor  # [n, 1, width * G, used]

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        """`queries` [tokens, G, Hk, D] over one layer's `kv` [groups, length, 2, Hk, D] to [tokens, G, Hk, D]."""
        groups, _, rows, used = self.mask.shape
        heads = queries.shape[1:]
        padded = queries.new_zeros(groups * rows // heads[0], *heads)  # [n * width, G, Hk, D]
        padded.index_copy_(0, self.places, queries)
        keys, values = kv[self.groups, :used].permute(2, 0, 3, 1, 4)  # [n, Hk, used, D]
        grouped = padded.view(groups, rows, *heads[1:]).transpose(1, 2)  # [n, Hk, width * G, D]
        attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=self.mask)
        return attended.transpose(1, 2).reshape_as(padded)[self.places]


class GroupedKv:
    """Grows to as many groups, and as many tokens in each, as are asked for."""

    def __init__(self, layers: int, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.query_groups, key_heads, head_size = heads  # G, Hk, D
        empty = torch.zeros(0, dtype=dtype, device=device)
        self.kv = empty.view(layers, 0, 0, 2, key_heads, head_size)  # [layers, groups, length, 2, Hk, D]
        self.seen = empty.view(0, GROUP_SIZE, self.query_groups, 0)  # 0, or -inf, as a mask is added

    def reserve(self, groups: int, length: int) -> None:
        """Room for `groups` of `length` tokens."""
        old_groups, old_length = self.kv.shape[1:3]
        if groups > old_groups or length > old_length:
            groups, length = max(groups, old_groups), max(length, old_length)
            kv, seen = self.kv, self.seen
            self.kv = kv.new_zeros(kv.shape[0], groups, length, *kv.shape[3:])
            self.kv[:, :old_groups, :old_length] = kv
            self.seen = seen.new_full((groups, *seen.shape[1:3], length), -torch.inf)
            self.seen[:old_groups, ..., :old_length] = seen

    def open(self, group: int, prefix: int) -> None:
        """A new group, whose samples see `prefix` tokens."""
        self.seen[group] = -torch.inf
        self.seen[group, ..., :prefix] = 0

    def move(self, source: int, target: int) -> None:
        self.kv[:, target] = self.kv[:, source]
        self.seen[target] = self.seen[source]

    def next_tokens(self, groups: Sequence[int], samples: Sequence[int], slots: Sequence[int]) -> Part:
        """One token at `slots` for each of the samples; from here on each one sees its own."""
        group, sample, slot = (torch.tensor(numbers, device=self.kv.device) for numbers in (groups, samples, slots))
        self.seen[group, sample, :, slot] = 0
        count, width, used = max(groups) + 1, max(samples) + 1, max(slots) + 1
        mask = self.seen[:count, :width, :, :used].flatten(1, 2)[:, None]
        return Part(slice(count), group * width + sample, mask)

    def prefixes(self, groups: Sequence[int], starts: Sequence[int], lengths: Sequence[int]) -> Part:
        """The tokens from `starts` to `lengths` of the prefixes of `groups`."""
        device = self.kv.device
        start, length = torch.tensor(starts, device=device), torch.tensor(lengths, device=device)
        width, used = max(end - begin for begin, end in zip(starts, lengths, strict=True)), max(lengths)
        offsets = torch.arange(width, device=device)
        positions = start[:, None] + offsets  # [n, width]
        hidden = torch.arange(used, device=device) > positions[..., None]  # [n, width, used]
        mask = torch.zeros(hidden.shape, dtype=self.kv.dtype, device=device).masked_fill_(hidden, -torch.inf)
        places = (torch.arange(len(groups), device=device)[:, None] * width + offsets)[positions < length[:, None]]
        mask = mask.repeat_interleave(self.query_groups, dim=1)[:, None]  # [n, 1, width * G, used]
        return Part(torch.tensor(groups, device=device), places, mask)
