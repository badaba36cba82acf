"""Tables of problems: a JSONL or Parquet file, or a data set of Hugging Face, saved to a directory or by name.

All but JSONL are read by the library `datasets`; its extra has that name. Knows nothing about what a row says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tsd.tasks.lines import read_lines
from tsd.types import Problem

HUB = "hf:"
"""Before a data set's name on the Hub: `hf:NAME`, or `hf:NAME:CONFIG`."""
SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a directory."""

Row = Mapping[str, Any]


def read_tables(path: str, parse: Callable[[Row], Problem]) -> dict[str, Iterator[Problem]]:
    """The problems of each of a data set's own splits, by its name; a table without splits is one of any name.

    Raises ValueError for what cannot be read; an iterator does, for a row, with its number.
    """
    file = Path(path).expanduser()
    if path.startswith(HUB) or file.is_dir() or file.suffix == ".parquet":
        tables = _load(path, file)
        return {name: _problems(f"{path} {name}".strip(), rows, parse) for name, rows in tables.items()}
    return {"": read_lines(file, lambda line: parse(read_row(line)))}


def read_row(line: str) -> Row:
    """One line of JSON as a row. Raises ValueError for anything else."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ValueError(f'expected {{"question":"...","answer":"72"}}, found {line[:80]!r}: {error}') from None


def _problems(where: str, rows: Iterable[Row], parse: Callable[[Row], Problem]) -> Iterator[Problem]:
    for number, row in enumerate(rows, start=1):
        try:
            yield parse(row)
        except ValueError as error:
            raise ValueError(f"{where}, row {number}: {error}") from None


def _load(path: str, file: Path) -> Mapping[str, Iterable[Row]]:
    """A data set's tables. Whatever the library raises is one line."""
    try:
        import datasets
        from pyarrow.parquet import read_table
    except ImportError:
        raise ValueError(f"reading {path} needs Hugging Face's datasets: pip install 'tsd[datasets]'") from None
    datasets.disable_progress_bars()
    name, _, config = path.removeprefix(HUB).partition(":")
    try:
        if path.startswith(HUB):
            found = datasets.load_dataset(name, config or None)
        elif file.is_dir():
            is_saved = any((file / one).is_file() for one in SAVED)
            found = datasets.load_from_disk(str(file)) if is_saved else datasets.load_dataset(str(file))
        else:
            found = {"": read_table(file).to_pylist()}
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"cannot load {path}: {reason}; expected hf:NAME or hf:NAME:CONFIG, or a path") from error
    return {"": found} if isinstance(found, datasets.Dataset) else dict(found)
