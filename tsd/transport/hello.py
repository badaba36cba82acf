"""What two ends must agree on before weights go between them: tsd's protocol, the run, the tokenizer.

Knows nothing about where these come from.
"""

import msgspec

from tsd.transport.codec import PROTOCOL


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks."""

    protocol: int = PROTOCOL
    run: str
    """The run's id."""
    tokenizer: str
    """A hash of the tokenizer's files; empty for an engine without a model."""


def mismatch(expected: Hello, found: Hello) -> tuple[str, str] | None:
    """The first thing that differs, by name, and a line that says how; None where nothing does."""
    for name in Hello.__struct_fields__:
        ours, theirs = getattr(expected, name), getattr(found, name)
        if ours != theirs:
            return name, f"expected {name} {ours!r}, found {theirs!r}"
    return None
