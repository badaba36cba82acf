"""The project's own limits: a function that does not fit one screen is split; the way in is short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FUNCTION_LINES = 50
MODULES = [path for folder in ("tsd", "tests", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Every function with its length in lines, decorators left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_enough_to_read(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert {name: length for name, length in functions(source) if length > MAX_FUNCTION_LINES} == {}


def docstrings(source: str) -> Iterator[str]:
    """Every string that stands alone: of a module, a class, a function, or below what it is about."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_sentences_that_need_no_riddle_solved(path: Path) -> None:
    found = docstrings(path.read_text(encoding="utf-8"))
    assert [text for text in found if text.startswith("Of ") or len(text.split()) < 2] == []


def test_a_riddle_would_be_found() -> None:
    assert list(docstrings('class A:\n    """Letters."""\n    b: int\n    """Of A."""\n')) == ["Letters.", "Of A."]


def test_a_long_function_would_be_found() -> None:
    source = "async def long():\n" + "    pass\n" * 60 + "def short():\n    pass\n"
    assert dict(functions(source)) == {"long": 61, "short": 2}
    assert ROOT / "tsd" / "search" / "tree.py" in MODULES
