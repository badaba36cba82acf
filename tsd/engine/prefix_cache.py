"""Keys and values of states already seen, for the torch engine. Knows nothing about weights: its owner clears it."""

from collections import OrderedDict

from torch import Tensor


class PrefixCache:
    """Keys and values of token sequences, the least recently used dropped past a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._entries: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def get(self, tokens: tuple[int, ...]) -> Tensor | None:
        """[layers, 2, Hk, len(tokens), D], or None."""
        found = self._entries.get(tokens)
        if found is not None:
            self._entries.move_to_end(tokens)
        return found

    def put(self, tokens: tuple[int, ...], kv: Tensor) -> None:
        if tokens in self._entries:
            return
        self._entries[tokens] = kv
        self.num_bytes += kv.nbytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._entries.clear()
        self.num_bytes = 0
