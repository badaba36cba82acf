"""A generator's own copy of the trainer's weights: changed in place by what comes, and checked as a whole.

It lies in a file in memory, where engines in other processes read it: between the wire and the engine nothing is
copied. Knows nothing about sockets.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tsd.errors import WeightsError
from tsd.transport.deltas import Frame, Header, TensorHeader, decode_header, digest, write_tensor
from tsd.transport.tensor_file import TensorFile
from tsd.types import WeightUpdate


class Replica:
    """Empty at first. What `take` gave lies here, and changes with the next one."""

    def __init__(self) -> None:
        self.version: int | None = None
        """What weights are here; None where there are none that are right."""
        self.digests: dict[str, int] = {}
        """What each tensor must have."""
        self._stack = ExitStack()
        self._file = self._stack.enter_context(TensorFile({}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets the file go; tensors that were given out stay as they are."""
        self._stack.close()

    def take(self, parts: Sequence[Sequence[Frame]]) -> WeightUpdate:
        """What the frames of one part after the other make of it.

        Raises WeightsError where a frame is missing, of the wrong size or damaged, or says what changed in weights that
        are not here. From then on only whole ones are of use.
        """
        version, self.version = self.version, None
        for frames in parts:
            header = decode_header(frames)
            if header.base is None:
                self._lay_out(header)
            elif header.base != version:
                raise WeightsError(
                    f"weights {header.version}: they are changes of weights {header.base}, and there are {version}"
                )
            for tensor, frame in zip(header.tensors, frames[1:], strict=True):
                self._write(header.version, tensor, frame)
            version = header.version
        for name, array in self._file.tensors.items():
            if digest(array) != self.digests[name]:
                raise WeightsError(f"weights {version}: {name} is damaged: its checksum is wrong")
        if version is None:
            raise WeightsError("an answer without weights")
        self.version = version
        return WeightUpdate(version, dict(self._file.tensors), self._file.path)

    def _lay_out(self, header: Header) -> None:
        """Makes room for whole weights. What there was is written over where it has the same layout."""
        layout = {tensor.name: (tensor.dtype, tensor.shape) for tensor in header.tensors}
        if layout != self._file.layout:
            self._stack.close()
            self._file, self.digests = self._stack.enter_context(TensorFile(layout)), {}

    def _write(self, version: int, tensor: TensorHeader, frame: Frame) -> None:
        try:
            if self._file.layout.get(tensor.name) != (tensor.dtype, tensor.shape):
                raise ValueError("its changes are of another tensor")
            write_tensor(tensor, frame, self._file.tensors[tensor.name])
        except ValueError as error:
            raise WeightsError(f"weights {version}: {tensor.name} is damaged: {error}") from None
        self.digests[tensor.name] = tensor.digest
