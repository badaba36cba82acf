"""Files of problems, a line each, as they are in the field: a byte order mark is passed over, empty lines too."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tsd.types import Problem


def read_lines(path: Path, parse: Callable[[str], Problem]) -> Iterator[Problem]:
    """Every line's problem. Raises ValueError naming the file, and the line that cannot be read."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield parse(line.decode("utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
