"""The configuration as a TOML file: read with changes from the command line, and written whole.

Knows nothing about what settings there are.
"""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from tsd.config.sections import Config
from tsd.config.toml import apply_setting, dump

MAIN_JOB = Path(str(files("tsd") / "assets" / "countdown-cpu.toml"))
"""What `tsd launch` does where nobody says otherwise: configs/countdown-cpu.toml."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file, or takes every default; applies `section.key=value` overrides (as in TOML), and checks it all.

    Raises ValueError naming the file and the key.
    """
    where = str(path) if path else "the default configuration"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read {where} as TOML: {error}") from None
    for override in overrides:
        apply_setting(table, override)
        where = f"{path or 'the default configuration'} with --set {' --set '.join(overrides)}"
    try:
        return msgspec.convert(table, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from None


def save_config(config: Config, path: Path) -> None:
    """Writes every setting, defaults included, as TOML that `load_config` reads back to an equal Config."""
    partial = path.with_suffix(".partial")
    partial.write_text(dump(msgspec.to_builtins(config)), encoding="utf-8")
    partial.replace(path)
