"""The model that training began from with the adapters that came over the wire, as an engine takes it.

Knows nothing about engines and sockets.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from tsd.errors import WeightsError
from tsd.model.files import HEAD_PREFIX
from tsd.model.lora import adapted, adapted_names
from tsd.model.policy import Policy, as_tensor, weight_update
from tsd.transport.tensor_file import TensorFile, layout_of
from tsd.types import WeightUpdate


class AdaptedModel:
    """Holds the model as it began, and beside it, in a file in memory, with the newest adapters."""

    def __init__(self, directory: Path, dtype: str) -> None:
        began = Policy.load(directory).named_tensors()
        layout = layout_of(weight_update(0, began, dtype).tensors)
        self._file, self._dtype = TensorFile(layout), dtype
        self._write(began)
        self._began = {name: _in_few_bytes(tensor) for name, tensor in began.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def merge(self, update: WeightUpdate) -> WeightUpdate:
        """The whole model with an update's adapters and value head in it, which changes with the next one.

        Raises WeightsError where they are another model's.
        """
        learned = {name: as_tensor(array) for name, array in update.tensors.items()}
        changed = adapted_names(learned) | {name for name in learned if name.startswith(HEAD_PREFIX)}
        if strange := sorted(changed - self._began.keys()):
            raise WeightsError(f"update {update.version} is for another model, which has {strange[0]}")
        for name in changed:
            whole = learned[name] if name in learned else adapted(name, self._began[name].float(), learned)
            self._write({name: whole})
        return WeightUpdate(update.version, dict(self._file.tensors), self._file.path)

    def _write(self, tensors: dict[str, Tensor]) -> None:
        """In the engine's precision, rounded as the trainer rounds."""
        for name, array in weight_update(0, tensors, self._dtype).tensors.items():
            self._file.tensors[name][...] = array


def _in_few_bytes(tensor: Tensor) -> Tensor:
    """As bfloat16 where that loses nothing, as in a model that was published so."""
    few = tensor.bfloat16()
    return few if torch.equal(few.float(), tensor) else tensor
