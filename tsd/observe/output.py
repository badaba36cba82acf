"""Output that may lose its reader: a pipe that was closed, a terminal that is gone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def lasting(file: IO[str], lost: Callable[[OSError], object]) -> Iterator[None]:
    """Around what is written to a file. Where that fails, all further output goes nowhere, and `lost` is told."""
    try:
        yield
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)
        lost(error)
