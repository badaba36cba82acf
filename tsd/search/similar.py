"""Steps that say nearly the same: siblings whose embeddings point the same way are one step.

An embedding is any function from a step's text to numbers; packages register theirs under the entry-point group
`tsd.embeddings`. Siblings of a state are few, so an index of them is a list. Ends are never merged: answers that look
alike may be right and wrong. Knows nothing about models.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from math import sqrt
from zlib import crc32

from tsd.search.node import Node

GROUP = "tsd.embeddings"
NUM_BUCKETS = 256

Embedding = Callable[[str], Sequence[float]]


def trigrams(text: str) -> list[float]:
    """The built-in embedding, without a model: counts of three characters in a row, hashed. [NUM_BUCKETS]"""
    found = [0.0] * NUM_BUCKETS
    padded = f"  {' '.join(text.split())} "
    for i in range(len(padded) - 2):
        found[crc32(padded[i : i + 3].encode(errors="replace")) % NUM_BUCKETS] += 1.0
    return found


@lru_cache(8)
def find_embedding(name: str) -> Embedding:
    """By its name. Raises ValueError for one that nobody has, or that cannot be loaded."""
    return trigrams if name == "trigrams" else load_embedding(name, entry_points(group=GROUP))


def load_embedding(name: str, registered: Iterable[EntryPoint]) -> Embedding:
    """`registered` is what packages offer. Raises ValueError as `find_embedding`."""
    offered = {point.name: point for point in registered}
    if name not in offered:
        known = ", ".join(sorted({"trigrams", *offered}))
        raise ValueError(f"search.embedding: expected one of {known}, found {name!r}; see tsd.search.similar")
    try:
        embedding: Embedding = offered[name].load()
    except Exception as error:
        raise ValueError(f"search.embedding: {name!r} cannot be loaded: {error!r}") from error
    return embedding


class Similar:
    """Of one tree: the embeddings of each state's steps."""

    def __init__(self, embed: Callable[[Sequence[int]], Sequence[float]], threshold: float) -> None:
        """`embed` takes a step's tokens; a cosine of `threshold` or more makes two steps one."""
        self._embed, self._threshold = embed, threshold
        self._known: dict[Node, list[tuple[Sequence[float], Node]]] = {}

    def first_of_kind(self, parent: Node, child: Node) -> Node:
        """The earlier sibling that a new child is taken for: of several the nearest; itself where there is none."""
        assert child.step is not None, "only the root has no step"
        vector = _unit(self._embed(child.step.tokens))
        siblings = self._known.setdefault(parent, [])
        near = max(((_dot(vector, other), i) for i, (other, _) in enumerate(siblings)), default=(-1.0, -1))
        if near[0] >= self._threshold:
            return siblings[near[1]][1]
        siblings.append((vector, child))
        return child


def _unit(vector: Sequence[float]) -> Sequence[float]:
    length = sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length else vector


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
