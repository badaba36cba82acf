"""A memory of steps in a Chroma collection: embedded, in a directory, of one process at a time.

A place is embedded without a model: the token n-grams of its prompt and of its step are hashed into a unit vector, the
same in every process. Imports chromadb, the extra tsd[chroma], only where it is asked for.
"""

import asyncio
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tsd.config import SearchConfig
from tsd.config.extras import check_installed
from tsd.errors import DiskError
from tsd.search.memory import Memory, Place

SIZE, LONGEST = 256, 3
"""Dimensions of an embedding, and tokens of its longest n-grams."""
NEAR, NUM_NEAR = 0.15, 8
"""A place is near within this cosine distance; so many of the nearest are asked for."""
BLOCK, NUM_BLOCKS = 10_000, 20
"""Places are kept in blocks of so many; those that were last kept more than so many blocks ago are forgotten."""
COSINE = {"hnsw": {"space": "cosine"}}


def embed(place: Place) -> NDArray[np.float32]:
    """[SIZE]: prompt and step count for half each, however long they are."""
    return _unit(np.sum([_unit(_hashed(tokens, part)) for part, tokens in enumerate(place)], axis=0))


def _hashed(tokens: Sequence[int], part: int) -> NDArray[np.float32]:
    """Counts of n-grams, each in a dimension and with a sign of its own; another one's may be the same."""
    vector = np.zeros(SIZE, np.float32)
    for length in range(1, LONGEST + 1):
        for start in range(len(tokens) - length + 1):
            code = crc32(array("q", (part, *tokens[start : start + length])).tobytes())
            vector[code % SIZE] += 1 if code >> 31 else -1
    return vector


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.float32(np.linalg.norm(vector) or 1.0)


class ChromaMemory:
    """A `Memory`. Its queries go to threads, so that the event loop goes on."""

    def __init__(self, collection: Any, block: int = BLOCK) -> None:
        """The collection's metadata say which block it has come to, once it is not the first."""
        self._collection, self._block = collection, block
        self._number, self._num_kept = (collection.metadata or {}).get("block", 0), 0

    async def recall(self, place: Place) -> tuple[float, int]:
        with _chroma_errors():
            found = await asyncio.to_thread(self._nearest, place)
        return (sum(found) / len(found), len(found)) if found else (0.0, 0)

    async def remember(self, outcomes: Mapping[Place, float]) -> None:
        with _chroma_errors():
            await asyncio.to_thread(self._keep, outcomes)

    def _nearest(self, place: Place) -> list[float]:
        """What came of the near ones."""
        found = self._collection.query(
            query_embeddings=[embed(place)], n_results=NUM_NEAR, include=["metadatas", "distances"]
        )
        pairs = zip(found["metadatas"][0], found["distances"][0], strict=True)
        return [metadata["outcome"] for metadata, distance in pairs if distance <= NEAR]

    def _keep(self, outcomes: Mapping[Place, float]) -> None:
        if not outcomes:  # which Chroma does not take
            return
        self._collection.upsert(
            ids=[blake2b(repr(tuple(place)).encode(), digest_size=16).hexdigest() for place in outcomes],
            embeddings=[embed(place) for place in outcomes],
            metadatas=[{"outcome": outcome, "block": self._number} for outcome in outcomes.values()],
        )
        self._num_kept += len(outcomes)
        if self._num_kept >= self._block:
            self._forget()

    def _forget(self) -> None:
        """Begins a block, and lets the oldest go."""
        self._number, self._num_kept = self._number + 1, 0
        self._collection.modify(metadata={"block": self._number})
        self._collection.delete(where={"block": {"$lt": self._number - NUM_BLOCKS}})


@contextmanager
def _chroma_errors() -> Iterator[None]:
    """What Chroma raises, in one line."""
    from chromadb.errors import ChromaError

    try:
        yield
    except ChromaError as error:
        raise DiskError(f"search.memory: its directory cannot be read or written: {error}; name another") from error


def check_memory(config: SearchConfig) -> None:
    """Raises ValueError where a memory is wanted and Chroma is not installed."""
    if config.memory:
        check_installed("search.memory", "chromadb", "chroma")


def open_memory(config: SearchConfig, owner: str = "") -> Memory | None:
    """The one in the directory that `search.memory` names, or the owner's own one within it; None where none is wanted.

    Takes seconds. Raises ValueError where Chroma is not installed, DiskError where it cannot work in the directory.
    """
    if not config.memory:
        return None
    check_memory(config)
    import chromadb
    from chromadb.config import Settings

    path = Path(config.memory).expanduser() / owner
    with _chroma_errors():
        client = chromadb.PersistentClient(str(path), Settings(anonymized_telemetry=False))
        return ChromaMemory(client.get_or_create_collection("steps", embedding_function=None, configuration=COSINE))
