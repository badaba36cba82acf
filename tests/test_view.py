"""A saved tree as people see it: in a terminal, as a page, and in a browser."""

import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from tests.support.trees import HOSTILE, a_tree, end, step
from tsd.cli.app import app, exit_code
from tsd.report.tree import Page, chosen_path, draw, page
from tsd.search import TreeRecord


def text_of(tree: TreeRecord, max_nodes: int = 40) -> str:
    console = Console(width=200, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(draw(tree, max_nodes))
    return captured.get()


def test_the_chosen_path_leads_to_the_best_end_and_of_equal_ones_to_the_likeliest() -> None:
    tree = a_tree(step(0, 7), step(0, 1), end(1, -0.5, 0), end(2, 1, -3), end(2, 1, -2))
    assert chosen_path(tree.nodes) == [0, 2, 5]


def test_without_an_end_the_chosen_path_follows_the_visits() -> None:
    assert chosen_path(a_tree(step(0, 2), step(0, 5), step(2, 1), step(2, 3)).nodes) == [0, 2, 4]
    assert chosen_path(a_tree().nodes) == [0]


def test_a_terminal_shows_the_chosen_path_and_says_what_it_leaves_out() -> None:
    shown = text_of(a_tree(*(step(0, 9 - i, f"<step>{i}") for i in range(5)), end(5, 1, 0)), max_nodes=4)
    assert "5 9 = 14  N 9  Q +0.00  P +1.00  V +0.50" in shown
    assert "* <step>4  N 5  Q +0.25  P +0.50" in shown
    assert "* <answer>1</answer>  N 0  Q +1.00  P +1.00  solved" in shown
    assert "<step>0" in shown
    assert "<step>3" not in shown
    assert "3 more" in shown


def test_a_terminal_obeys_nothing_that_a_model_wrote() -> None:
    shown = text_of(a_tree(step(0, 1, HOSTILE)))
    assert "\\x1b[2J[bold]" in shown
    assert "\x1b[2J" not in shown


def data_of(document: str) -> str:
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', document, flags=re.DOTALL)
    return str(data)


def test_a_page_holds_the_whole_tree_and_fetches_nothing() -> None:
    document = page(a_tree(step(0, 2, HOSTILE), end(1, 1, -1)), "a.json")
    shown = msgspec.json.decode(data_of(document), type=Page)
    assert [(node.parent, node.visits, node.chosen) for node in shown.nodes] == [
        (-1, 9, True),
        (0, 2, True),
        (1, 0, True),
    ]
    assert shown.nodes[1].text == HOSTILE
    assert "<" not in data_of(document)
    assert "http" not in document.replace("http-equiv", "")


def test_a_file_that_is_no_tree_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.json").write_text(json.dumps({"nodes": 3}))
    for name in ("no.json", "absent.json"):
        assert exit_code(partial(app, ["tree", str(tmp_path / name)], standalone_mode=False)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt install chromium")
@pytest.mark.timeout(120)
def test_a_browser_shows_the_page_and_runs_nothing_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "tree.html"
    file.write_text(page(a_tree(step(0, 2, HOSTILE), step(0, 1), end(1, 1, -1)), "a.json"), encoding="utf-8")
    command = ("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.count('data-node="') == 4
    assert "<title>a.json</title>" in done.stdout
    assert "2 of 2 expansions" in done.stdout
    assert '<span class="end">solved</span>' in done.stdout
