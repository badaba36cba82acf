"""The configuration as a TOML file: read with changes from the command line, and written whole."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from tsd.config.hints import hint
from tsd.config.sections import Config
from tsd.config.toml import apply_setting, dump
from tsd.config.whole import write_whole

MAIN_JOB = Path(str(files("tsd") / "config" / "countdown-cpu.toml"))
"""What `tsd launch` does where nobody says otherwise: configs/countdown-cpu.toml."""

KINDS = {"method": "index", "loss": "cispo"}
"""Sections whose settings depend on their `kind`, and the kind where none is named."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file, or takes every default; applies `section.key=value` overrides (as in TOML), and checks it all.

    An override of a section's kind begins with that kind's defaults: what the file says of another does not count.

    Raises ValueError naming the file and the key.
    """
    where = str(path) if path else "the default configuration"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read {where} as TOML: {error}") from None
    for override in sorted(overrides, key=lambda one: not _chooses_kind(one)):
        if _chooses_kind(override):
            _forget_other_kind(table, override)
        apply_setting(table, override)
        where = f"{path or 'the default configuration'} with --set {' --set '.join(overrides)}"
    for section, kind in KINDS.items():
        found = table.get(section, {})
        if not isinstance(found, dict):
            raise ValueError(f"{where}: {section}: expected a table, found {found!r}; choose by {section}.kind")
        if found:
            found.setdefault("kind", kind)
    try:
        return msgspec.convert(table, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}{hint(str(error))}") from None


def _chooses_kind(override: str) -> bool:
    section, dot, key = override.partition("=")[0].strip().partition(".")
    return section in KINDS and dot + key == ".kind"


def _forget_other_kind(table: dict[str, object], override: str) -> None:
    """Drops a section that is of another kind than the override asks for."""
    path, _, kind = override.partition("=")
    section = path.strip().partition(".")[0]
    found = table.get(section)
    if isinstance(found, dict) and found.get("kind", KINDS[section]) != kind.strip().strip("\"'"):
        del table[section]


def save_config(config: Config, path: Path) -> None:
    """Writes every setting, defaults included, as TOML that `load_config` reads back to an equal Config."""
    write_whole(path, dump(msgspec.to_builtins(config)).encode())
