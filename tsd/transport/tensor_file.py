"""Tensors in a file in memory: this process changes them where they lie, others read the file by its path.

The file is a safetensors one, so whatever reads checkpoints reads it. It has no name, and no death of a process leaves
it behind. Knows nothing about versions and models.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor."""

DTYPES = {"<f4": "F32", "<u2": "BF16"}
"""Types of weights, and safetensors' names of them: float32, and bfloat16 as its bits."""
LENGTH_BYTES = 8


class TensorFile:
    """Holds tensors of one layout, zero at first. The file ends with its `with` block; the tensors stay as long as
    they are used."""

    def __init__(self, layout: Layout) -> None:
        self.layout = dict(layout)
        head, places, size = _plan(self.layout)
        self._file = open(os.memfd_create("tsd-weights"), "r+b")  # noqa: SIM115  closed by __exit__
        os.ftruncate(self._file.fileno(), len(head) + size)
        memory = mmap.mmap(self._file.fileno(), len(head) + size)
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[: len(head)] = head
        self.tensors = {
            name: np.ndarray(shape, dtype, memory, len(head) + places[name])
            for name, (dtype, shape) in self.layout.items()
        }

    @property
    def path(self) -> str:
        """Where any process of this user finds it."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def layout_of(tensors: Mapping[str, np.ndarray]) -> Layout:
    """Types as they lie in a file, whatever the byte order here."""
    return {name: (array.dtype.newbyteorder("<").str, array.shape) for name, array in tensors.items()}


def _plan(layout: Layout) -> tuple[bytes, dict[str, int], int]:
    """The file's head, where each tensor begins behind it, and how long they are together.

    The widest types come first, so that every tensor lies at a multiple of its elements' size.
    """
    places, described, at = dict[str, int](), dict[str, object](), 0
    for name, (dtype, shape) in sorted(layout.items(), key=lambda one: -np.dtype(one[1][0]).itemsize):
        end = at + np.dtype(dtype).itemsize * math.prod(shape)
        described[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": (at, end)}
        places[name], at = at, end
    head = json.dumps(described, separators=(",", ":")).encode()
    head += b" " * (-len(head) % LENGTH_BYTES)
    return len(head).to_bytes(LENGTH_BYTES, "little") + head, places, at
