"""Keys and values of states already seen, for the torch engine. Knows nothing about weights: its owner clears it."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A token sequence, and the keys and values of those of its tokens that `parent` does not hold."""

    tokens: tuple[int, ...]
    kv: Tensor  # [layers, own tokens, ...]
    parent: Self | None

    def chain(self) -> "Iterator[Prefix]":
        """Itself, its parent, and so on."""
        prefix: Prefix | None = self
        while prefix is not None:
            yield prefix
            prefix = prefix.parent


class PrefixCache:
    """Prefixes, the least recently used dropped past a number of bytes. A prefix is used whenever one over it is."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def longest(self, tokens: tuple[int, ...]) -> Prefix | None:
        """The longest prefix held of `tokens`, which may be all of them."""
        for length in sorted((n for n in self._lengths if n <= len(tokens)), reverse=True):
            found = self._prefixes.get(tokens[:length])
            if found is not None:
                self.put(found)
                return found
        return None

    def put(self, prefix: Prefix) -> None:
        for part in prefix.chain():
            if part.tokens not in self._prefixes:
                self._prefixes[part.tokens] = part
                self._lengths[len(part.tokens)] += 1
                self.num_bytes += part.kv.nbytes
            self._prefixes.move_to_end(part.tokens)  # a parent after its child, so that it outlives it
        while self.num_bytes > self.max_bytes:
            self._drop_oldest()

    def clear(self) -> None:
        self._prefixes.clear()
        self._lengths.clear()
        self.num_bytes = 0

    def _drop_oldest(self) -> None:
        tokens, oldest = self._prefixes.popitem(last=False)
        self._lengths[len(tokens)] -= 1
        if not self._lengths[len(tokens)]:
            del self._lengths[len(tokens)]
        self.num_bytes -= oldest.kv.nbytes
