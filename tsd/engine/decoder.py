"""Continuous batched decoding, for the torch engine.

One flat batch of samples, each of some request, all advanced one token a step, together with the states of new
requests. Keys and values of a finished step's prefix are kept, so that a child of a tree's node starts where its parent
ended. Synchronous and single-threaded: knows nothing about asyncio, trees or tasks.
"""

from array import array
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from tsd.engine.grouped_kv import GroupedKv, Part
from tsd.engine.prefix_cache import Prefix, PrefixCache
from tsd.engine.requests import Group, Request, Sample, groups_of
from tsd.engine.trunk import Trunk
from tsd.model.policy import Policy
from tsd.model.sampling import log_policy, nucleus
from tsd.types import Finish, Step, WeightUpdate

PREFILL_TOKENS = 8192
"""Most tokens of new states, padding included, in one forward pass."""
TOKENS_MULTIPLE = 16
"""Tokens of a forward pass are padded to it: oneDNN prepares, for a millisecond, each number of them it has not met."""


class Decoder:
    """Rows under way and their keys and values. `advance` is the hot loop."""

    def __init__(
        self,
        policy: Policy,
        finish: Callable[[Sequence[int], bool], Finish | None],
        *,
        temperature: float,
        max_samples: int,
        max_tokens: int,
        cache_bytes: int,
        seed: int,
        top_p: float = 1.0,
    ) -> None:
        self.finish, self.temperature, self.top_p = finish, temperature, top_p
        self.max_samples, self.max_tokens = max_samples, max_tokens
        self.trunk = Trunk(policy, max_tokens)
        trunk = self.trunk
        heads = trunk.groups, trunk.key_heads, trunk.head_size
        self.keys = GroupedKv(trunk.num_layers, heads, trunk.dtype, trunk.device)
        self.samples: list[Sample] = []
        self.groups: list[Group | None] = []  # by index in `keys`
        self.waiting: list[Group] = []
        self.cache = PrefixCache(cache_bytes)
        self.rng = torch.Generator().manual_seed(seed)
        self.version = self.num_lookups = self.num_hits = 0

    @property
    def num_free(self) -> int:
        return self.max_samples - len(self.samples) - sum(group.size for group in self.waiting)

    @property
    def idle(self) -> bool:
        return not self.samples and not self.waiting

    def admit(self, requests: Sequence[Request]) -> None:
        """Each sample of each request begins in one of the next steps."""
        self.waiting += [group for request in requests for group in groups_of(request)]

    @torch.inference_mode()
    def advance(self) -> list[Request]:
        """Every sample one token further; returns the requests that are now done."""
        self._drop([sample for sample in self.samples if sample.group.request.cancelled])
        new = self._open_groups()
        if not self.samples and not new:
            return []
        logits, values = self._forward(new)
        self._keep_prefixes(new)
        sources = list(range(len(self.samples)))
        for number, group in enumerate(new, start=len(self.samples)):
            sources += [number] * group.size
            length = len(group.state)
            self.samples += [Sample(group, number, length + number) for number in range(group.size)]
        self._sample(logits[sources], values[sources])
        return self._retire()

    def prepared(self, weights: WeightUpdate) -> Trunk:
        """What `load` takes, made beside what is in use: any thread may, while this one decodes.

        Raises WeightsError where the weights are another model's.
        """
        policy = deepcopy(self.trunk.policy)
        policy.load_weights(weights)
        return Trunk(policy, self.max_tokens)

    def load(self, trunk: Trunk, version: int) -> None:
        """New weights. Rows under way go on over the keys and values they have; the prefix cache starts anew."""
        self.trunk, self.version = trunk, version
        self.cache.clear()

    def _open_groups(self) -> list[Group]:
        """Takes in waiting groups. One whose state goes on from another's waits until it can start from that one."""
        opened: list[Group] = []
        waiting: list[Group] = []
        under_way: list[tuple[int, ...]] = []  # prefixes that this step computes
        longest = 0
        for group in self.waiting:
            if group.request.cancelled:
                continue
            state, longest = group.state, max(longest, len(group.state))
            full = opened and longest * (len(opened) + 1) > PREFILL_TOKENS
            if full or any(state[: len(prefix)] == prefix for prefix in under_way):
                waiting.append(group)
                continue
            group.prefix, group.version, group.live = self.cache.longest(state[:-1]), self.version, group.size
            self.num_lookups += 1
            if group.num_held < len(state) - 1:
                under_way.append(state[:-1])
            else:
                self.num_hits += 1
            self._place(group)
            opened.append(group)
        self.waiting = waiting
        self._close_gaps()
        return opened

    def _place(self, group: Group) -> None:
        """Gives a group its index, and copies in what the cache has of its state."""
        if None in self.groups:
            group.index = self.groups.index(None)
            self.groups[group.index] = group
        else:
            group.index = len(self.groups)
            self.groups.append(group)
        state = group.state
        own = min(group.request.max_tokens, self.max_tokens - len(state))
        self.keys.reserve(len(self.groups), len(state) + own * group.size)
        self.keys.open(group.index, len(state))
        for prefix in group.prefix.chain() if group.prefix else ():
            end = len(prefix.tokens)
            self.keys.kv[:, group.index, end - prefix.kv.shape[1] : end] = prefix.kv

    def _close_gaps(self) -> None:
        """Moves the last groups into free places, so that all are one block."""
        while None in self.groups:
            last = self.groups.pop()
            if last is not None:
                target = self.groups.index(None)
                self.keys.move(last.index, target)
                self.groups[target], last.index = last, target

    def _forward(self, new: Sequence[Group]) -> tuple[Tensor, Tensor]:
        """Logits and values after every sample's next token, then after every new group's state."""
        parts, length = self._parts(new), self.keys.kv.shape[2]
        tokens = [sample.tokens[-1] for sample in self.samples]
        positions = [len(sample.group.state) + len(sample.tokens) - 1 for sample in self.samples]
        written = [sample.group.index * length + sample.slot for sample in self.samples]
        wanted = list(range(len(self.samples)))
        for sample in self.samples:
            sample.slot += sample.group.size
        for group in new:
            tokens += group.state[group.num_held :]
            positions += range(group.num_held, len(group.state))
            written += range(group.index * length + group.num_held, group.index * length + len(group.state))
            wanted.append(len(tokens) - 1)
        padding = [0] * (-len(tokens) % TOKENS_MULTIPLE)
        place = partial(torch.tensor, device=self.trunk.device)
        attend = partial(self._attend, parts, place(written))
        return self.trunk(place(tokens + padding), place(positions + padding), attend, place(wanted))

    def _parts(self, new: Sequence[Group]) -> list[Part]:
        """The samples, and the new groups, as they attend."""
        parts: list[Part] = []
        if self.samples:
            groups, numbers, slots = zip(
                *((sample.group.index, sample.number, sample.slot) for sample in self.samples), strict=True
            )
            parts.append(self.keys.next_tokens(groups, numbers, slots))
        if new:
            starts, lengths = [group.num_held for group in new], [len(group.state) for group in new]
            parts.append(self.keys.prefixes([group.index for group in new], starts, lengths))
        return parts

    def _attend(
        self, parts: Sequence[Part], written: Tensor, layer: int, queries: Tensor, key_values: Tensor
    ) -> Tensor:
        """Writes new keys and values to `written` [tokens] of all groups' slots, then attends part by part."""
        kv = self.keys.kv[layer]
        kv.flatten(0, 1).index_copy_(0, written, key_values[: len(written)])
        attended, first = torch.zeros_like(queries), 0
        for part in parts:
            own = slice(first, first := first + len(part.places))
            attended[own] = part.attend(queries[own], kv)
        return attended

    def _keep_prefixes(self, new: Sequence[Group]) -> None:
        for group in new:
            end = len(group.state) - 1
            if group.num_held < end:
                kv = self.keys.kv[:, group.index, group.num_held : end].clone()
                group.prefix = Prefix(group.state[:end], kv, group.prefix)
                self.cache.put(group.prefix)

    def _sample(self, logits: Tensor, values: Tensor) -> None:
        """`logits` [B, V] and `values` [B]: a token for every sample."""
        logprobs = log_policy(logits, self.temperature)
        chances = logprobs.exp()  # [B, V]
        for i, sample in enumerate(self.samples):
            if sample.group.request.excluded and not sample.tokens:
                _exclude(chances[i], sample.group.request.excluded)
        if self.top_p < 1:
            chances = nucleus(chances, self.top_p)
        shares = chances.cumsum(-1, dtype=torch.float64)
        drawn = torch.rand(len(shares), 1, dtype=torch.float64, generator=self.rng).to(shares.device)
        tokens = torch.searchsorted(shares / shares[:, -1:], drawn, right=True)  # [B, 1]
        chosen = logprobs.gather(1, tokens)[:, 0].tolist()
        for sample, token, logprob, value in zip(
            self.samples, tokens[:, 0].tolist(), chosen, values.tolist(), strict=True
        ):
            sample.tokens.append(token)
            sample.logprobs.append(logprob)
            sample.values.append(value)

    def _retire(self) -> list[Request]:
        """Takes out the samples that end here."""
        ended: list[Sample] = []
        done: list[Request] = []
        for sample in self.samples:
            request = sample.group.request
            finish = self.finish(sample.tokens, request.stops_at_step)
            room = min(request.max_tokens, self.max_tokens - len(request.state))
            if finish is None and len(sample.tokens) < room:
                continue
            ended.append(sample)
            request.value = sample.values[0]
            logprobs, values = array("f", sample.logprobs), array("f", sample.values)
            request.steps.append(Step(tuple(sample.tokens), logprobs, values, finish or "length", sample.group.version))
            # A sample begun under older weights holds their keys and values: no use to anyone from here on.
            if finish == "step" and sample.group.version == self.version:
                self._keep_step(sample)
            if request.done:
                done.append(request)
        self._drop(ended)
        return done

    def _keep_step(self, sample: Sample) -> None:
        """Puts all but the last token of a state and a step over it into the cache."""
        state, group = sample.group.state, sample.group
        kv = self.keys.kv[:, group.index]
        own = kv[:, len(state) + sample.number : sample.slot : group.size]
        prefix = torch.cat((kv[:, len(state) - 1 : len(state)], own), dim=1)
        self.cache.put(Prefix(state + tuple(sample.tokens[:-1]), prefix, group.prefix))

    def _drop(self, gone: Sequence[Sample]) -> None:
        for sample in gone:
            sample.group.live -= 1
            if not sample.group.live:
                self.groups[sample.group.index] = None
        if gone:
            left = set(map(id, gone))
            self.samples = [sample for sample in self.samples if id(sample) not in left]


def _exclude(chance: Tensor, excluded: Sequence[int]) -> None:
    """Takes tokens out of the draw from `chance` [V], unless there is no other."""
    kept = chance.clone()
    kept[list(excluded)] = 0
    if kept.sum() > 0:
        chance.copy_(kept)
