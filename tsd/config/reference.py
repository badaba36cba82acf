"""Every setting with its type, default and documentation, read from the configuration's own source.

What `tsd config` prints, and tsd/config/README.md holds. A field's documentation is the string that stands below it.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from types import ModuleType
from typing import Any, get_args, get_type_hints

from msgspec import Struct

from tsd.config import losses, methods, sections, transport
from tsd.config.sections import Config
from tsd.config.toml import as_toml

INDENT = "    "
HEAD = """\
# Configuration reference

Every setting of a run: what `tsd config` prints. Written by `tsd config --markdown > tsd/config/README.md`; a test
compares the two. A TOML file sets what it names, `--set section.key=value` one more; all else has its default.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One of them."""

    path: str
    """As `--set` takes it."""
    kind: str
    """What may be written there, in Python's words."""
    default: str
    """As TOML."""
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file; the first, without a name, is its top level."""

    name: str
    kind: str
    """The kind, in a section that may be of several; empty elsewhere."""
    text: str
    settings: tuple[Setting, ...]


def reference() -> tuple[Section, ...]:
    """All of them, in the order of the source."""
    documented = _documented(sections, methods, losses, transport)
    hints, defaults = get_type_hints(Config), Config()
    found = [_section("", Config, defaults, documented, [name for name in hints if not _tables(hints[name])])]
    for name, hint in hints.items():
        default = getattr(defaults, name)
        for table in _tables(hint):
            own = default if isinstance(default, table) else table()
            found.append(_section(name, table, own, documented, table.__struct_fields__))
    return tuple(found)


def _section(
    name: str, table: type[Struct], defaults: Struct, documented: dict[str, dict[str, tuple[str, str]]], fields: Any
) -> Section:
    kind = str(table.__struct_config__.tag or "")
    head = f'[{name}] kind = "{kind}": ' if kind else f"[{name}]: "
    text = " ".join((table.__doc__ or "").split()).removeprefix(head)
    settings = _settings(f"{name}." if name else "", table, defaults, documented, fields)
    return Section(name, kind, text[:1].upper() + text[1:], settings)


def markdown(found: tuple[Section, ...]) -> str:
    """A page of it."""
    parts = [HEAD]
    for section in found:
        head = f"[{section.name}]" if section.name else "Top level"
        kind = f' kind = "{section.kind}"' if section.kind else ""
        parts.append(f"## {head}{kind}\n\n{section.text}\n")
        parts += [f"- **`{one.path}`** = `{one.default}` ({one.kind}). {one.text}" for one in section.settings]
        parts.append("")
    return "\n".join(parts)


def plain(found: tuple[Section, ...], prefix: str = "", width: int = 80) -> str:
    """For a terminal: those whose path begins with `prefix`. Raises ValueError where there are none."""
    wrap = partial(fill, width=width, initial_indent=INDENT, subsequent_indent=INDENT)
    lines = [
        f"{one.path} = {one.default}    {one.kind}{f', of kind {section.kind}' if section.kind else ''}\n"
        f"{wrap(one.text)}\n"
        for section in found
        for one in section.settings
        if one.path.startswith(prefix)
    ]
    if not lines:
        sections = dict.fromkeys(section.name for section in found if section.name)
        raise ValueError(f"no setting begins with {prefix!r}; sections: {', '.join(sections)}")
    return "\n".join(lines).rstrip()


def _settings(
    prefix: str, table: type[Struct], defaults: Struct, documented: dict[str, dict[str, tuple[str, str]]], names: Any
) -> tuple[Setting, ...]:
    fields = {key: field for one in reversed(table.__mro__) for key, field in documented.get(one.__name__, {}).items()}
    return tuple(
        Setting(f"{prefix}{name}", fields[name][0], as_toml(getattr(defaults, name)), fields[name][1]) for name in names
    )


def _documented(*modules: ModuleType) -> dict[str, dict[str, tuple[str, str]]]:
    """Each class's fields: their annotations, and the strings below them."""
    trees = [ast.parse(inspect.getsource(module)) for module in modules]
    return {node.name: dict(_fields(node)) for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, tuple[str, str]]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            text = " ".join(str(below.value.value).split()) if is_text else ""  # type: ignore[attr-defined]
            yield field.target.id, (_kind(field.annotation), text)


def _kind(annotation: ast.expr) -> str:
    """Names of the choices, or the annotation's own words."""
    text = ast.unparse(annotation)
    if text.startswith("Literal["):
        return " or ".join(text.removeprefix("Literal[").removesuffix("]").replace("'", "").split(", "))
    return KINDS.get(text, text)


KINDS = {
    "Count": "a whole number from 1",
    "Whole": "a whole number from 0",
    "Positive": "a number above 0",
    "NotNegative": "a number from 0",
    "Share": "a number from 0 to 1",
    "PositiveShare": "a number above 0, at most 1",
    "Port": "a port; 0 for any",
    "bool": "true or false",
    "str": "text",
    "dict[str, float]": "a table of numbers",
    "dict[Literal['question', 'answer'], str]": "a table of names",
    "dict[str, bool | int | float | str | list[bool | int | float | str]]": "a table of values and lists of them",
    "tuple[Annotated[int, Meta(ge=2, le=6)], ...]": "whole numbers from 2 to 6",
    "Annotated[int, Meta(ge=0, le=65535)]": "a port; 0 for none",
    "HeadDtype": "float32 or model",
}


def _tables(hint: Any) -> tuple[type[Struct], ...]:
    """The structures that a field may be: none of a plain setting, several where `kind` tells them apart."""
    members = get_args(hint) or (hint,)
    return tuple(one for one in members if isinstance(one, type) and issubclass(one, Struct))
