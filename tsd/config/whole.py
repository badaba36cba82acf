"""A small file, written as a whole or not at all: whoever reads it meanwhile gets the old one or the new one."""

from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Replaces what there is. From one process at a time. Raises OSError where the disk refuses."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
