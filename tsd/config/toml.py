"""TOML as nested tables: one setting put in, the whole written out. Knows nothing about what settings there are."""

import tomllib
from collections.abc import Mapping

import msgspec


def apply_setting(table: dict[str, object], setting: str) -> None:
    """Puts one `section.key=value` into the table. A value that is no TOML is taken as a string.

    Raises ValueError naming the setting.
    """
    dotted, equals, text = setting.partition("=")
    *sections, key = dotted.strip().split(".")
    if not equals or not key:
        raise ValueError(f"--set {setting!r}: expected section.key=value, for example method.agents=32")
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {setting!r}: {section!r} is a value, not a section")
        table = inner
    table[key] = value


def dump(table: Mapping[str, object]) -> str:
    """A table as TOML text: sections of the first level, tables inline below it."""
    lines = [f"{key} = {as_toml(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for section, values in table.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{key} = {as_toml(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def as_toml(value: object) -> str:
    """One value, on one line. Tables; numbers, booleans, strings and lists of them are where JSON and TOML agree."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{as_toml(key)} = {as_toml(one)}' for key, one in value.items())}}}"
    return msgspec.json.encode(value).decode()
