"""The safetensors files of a model directory, looked over before anything takes weights from them.

Reads headers, then each tensor once, where it lies in the file: no second copy of the model is made. Knows nothing
about what a model does with its tensors.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from tsd.model.files import HEAD_PREFIX, INDEX_FILE, OPTIMIZER_FILE, VALUE_HEAD_FILE, WEIGHTS_FILE

HARMLESS = ("lm_head.weight", "rotary_emb.inv_freq")
"""What files may hold beside a model's own tensors: a tied output layer, and what old Llamas store of positions."""

Shape = tuple[int, ...]


class Index(msgspec.Struct):
    """What a sharded model's index says: which file holds each tensor."""

    weight_map: dict[str, str]


def check_tensors(directory: Path, shapes: Mapping[str, Shape]) -> None:
    """Raises ValueError, one line with the file and its tensors, unless the files hold the tensors of those names and
    shapes, and every number in them is finite.

    A model that tsd has not trained may lack the value head.
    """
    head = directory / VALUE_HEAD_FILE
    parts = [({n: s for n, s in shapes.items() if not n.startswith(HEAD_PREFIX)}, *_weight_files(directory))]
    if head.exists() or (directory / OPTIMIZER_FILE).exists():
        parts.append(({n: s for n, s in shapes.items() if n.startswith(HEAD_PREFIX)}, head, [head]))
    for expected, named, files in parts:
        _compare(named, expected, {name: shape for file in files for name, shape in _header(file)})
    for _, _, files in parts:
        for file in files:
            _check_numbers(file)


def fault(path: Path, what: str) -> ValueError:
    """A model that cannot be loaded, in one line."""
    return ValueError(
        f"model.path: cannot load the model in {path.parent}: {path.name} {what}; copy or download the model again, or "
        "name another"
    )


def _weight_files(directory: Path) -> tuple[Path, list[Path]]:
    """The file to name in messages, and all that hold weights."""
    whole, index = directory / WEIGHTS_FILE, directory / INDEX_FILE
    if whole.exists() or not index.exists():
        return whole, [whole]
    try:
        shards = msgspec.json.decode(index.read_bytes(), type=Index).weight_map.values()
    except msgspec.DecodeError as error:
        raise fault(index, f"is no index of tensors ({error})") from None
    return index, [directory / name for name in sorted(set(shards))]


def _header(path: Path) -> Iterator[tuple[str, Shape]]:
    """Each tensor's name and shape, without its numbers."""
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                prefix = HEAD_PREFIX if path.name == VALUE_HEAD_FILE else ""
                yield prefix + name.removeprefix(prefix), tuple(file.get_slice(name).get_shape())
    except FileNotFoundError:
        raise fault(path, "is missing") from None
    except (SafetensorError, OSError) as error:
        raise fault(path, f"of {path.stat().st_size:,} bytes is cut or damaged ({error})") from None


def _compare(path: Path, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        raise fault(path, f"lacks {_few(missing)}")
    if extra := sorted(name for name in found.keys() - expected.keys() if not name.endswith(HARMLESS)):
        raise fault(path, f"holds {_few(extra)}, which config.json has no place for")
    if wrong := [name for name, shape in expected.items() if found[name] != shape]:
        listed = _few([f"{name} of shape {list(found[name])}, not {list(expected[name])}" for name in wrong])
        raise fault(path, f"does not fit config.json: it holds {listed}")


def _check_numbers(path: Path) -> None:
    with safe_open(path, "pt") as file:
        tensors = ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        # The extremes are not finite where any number is not; they cost a tenth of asking each.
        if wrong := [name for name, t in tensors if not torch.stack(torch.aminmax(t)).isfinite().all()]:
            raise fault(path, f"holds numbers that are NaN or infinite, in {_few(wrong)}")


def _few(names: Iterable[str], most: int = 3) -> str:
    named = list(names)
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")
