"""Text that a terminal shows as it is: no escape sequences, nothing invisible. Knows nothing about where it comes from.

What a model writes, and a peer sends, may hold anything; a terminal obeys some of it.
"""


def printable(text: str, keep: str = "") -> str:
    """`text` with what is not to be seen written out, ESC as `\\x1b`; characters in `keep` stay as they are."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _written_out(one) for one in text)


def _written_out(one: str) -> str:
    return one.encode("unicode_escape").decode()
