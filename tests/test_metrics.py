"""The rows of metrics.jsonl: every field says what it means, and in what unit."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsd.observe import metrics
from tsd.observe.metrics import MetricsRow

SOURCE = Path(metrics.__file__).read_text(encoding="utf-8")


def undocumented(source: str, name: str) -> Iterator[str]:
    """The fields of a class that no docstring follows."""
    (found,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    for field, after in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))) if text.strip():
                    pass
                case _:
                    yield field.target.id


@pytest.mark.parametrize("name", [row.__name__ for row in MetricsRow.__args__])
def test_every_field_of_a_row_is_documented(name: str) -> None:
    assert list(undocumented(SOURCE, name)) == []


def test_a_field_without_a_docstring_would_be_found() -> None:
    source = 'class A:\n    """A."""\n\n    a: int\n    b: int = 0\n    """Of b."""\n    c: float\n'
    assert list(undocumented(source, "A")) == ["a", "c"]
