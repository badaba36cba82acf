"""Every command that the pages show is run, in short where it would take minutes; links and lines are right."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.command import tsd
from tests.support.launching import launched
from tests.support.runs import TSD, finish

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "tsd" / "docs"
ALL_PAGES = tuple(dict.fromkeys((ROOT / "README.md", DOCS / "guide.md", *sorted(DOCS.glob("*.md")))))
"""The README and the guide first: what their commands make is used further on."""
RECORDS = ("changelog.md", "decisions.md", "results.md")
"""Pages whose commands are of earlier commits, or take hours."""
PAGES = tuple(page for page in ALL_PAGES if page.name not in RECORDS)
MAX_LINE = 120
EXAMPLE_RUNS = ("runs/20250131-120000", "runs/a", "runs/b")
SHORTER = {
    "eval": "--limit 2 --k 2",
    "solve": "--tokens 200",
    "bench-search": "--simulations 50 --engine null --trees 1 --problems 1",
    "data": "--train 5 --validation 5 --heldout 5",
    "warmstart": "--steps 1",
    "calibrate": "--problems 1",
    "report": "--no-trees",
    "doctor": "--quick --set engine.kind=mock --gpus cpu:gen,cpu:train",
}
"""Added at the end, where the last of two options counts."""
SHORTEST = tuple(
    f"--set={setting}"
    for setting in (
        *("train.num_updates=1", "train.batch_size=2", "evaluate.num_problems=2", "evaluate.k=2"),
        *("search.trees=1", "gpus=cpu:gen,cpu:train"),
    )
)
"""The main job at its least: a real model is what some commands want."""
BY_OTHERS = {"soak": "tests/test_soak.py", "serve": "tests/test_serve.py", "scale": "tests/test_cluster.py"}
"""Commands that another test runs, which a second time would only take minutes."""


def commands() -> Iterator[list[str]]:
    """Lines of the pages' shell blocks that begin with `tsd`, without their comments; each once."""
    seen = set()
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for line in block.splitlines():
                words = tuple(shlex.split(line, comments=True))
                if words and words[0] == "tsd" and words not in seen:
                    seen.add(words)
                    yield list(words[1:])


COMMANDS = list(commands())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the examples name: runs, problems, a task, the configurations."""
    place = tmp_path_factory.mktemp("docs")
    run_dir = place / EXAMPLE_RUNS[0]
    with launched([*TSD, *SHORTEST, "--run-dir", str(run_dir)]) as run:
        finish(run, 100)
    for name in EXAMPLE_RUNS[1:]:
        (place / name).symlink_to(run_dir)
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "problems.jsonl").write_text('{"input":[2,3],"target":6}\n{"input":[5,13,5,9],"target":31}\n')
    (task,) = re.findall(r"```python\n(.*?)```", (DOCS / "tasks.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (place / "tens.py").write_text(task)
    return place


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) >= 25
    assert {words[0] for words in COMMANDS} >= {"launch", "report", "doctor", "export", "bugreport", "config"}


@pytest.mark.timeout(300)
def test_every_command_of_the_documentation_does_what_it_shows(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the pages: some use what an earlier one made."""
    monkeypatch.chdir(place)
    for words in COMMANDS:
        if words[0] in BY_OTHERS:
            assert (ROOT / BY_OTHERS[words[0]]).is_file()
            continue
        more = "--dry-run" if words[0] == "launch" else SHORTER.get(words[0], "")
        code = tsd(*(word.replace("~", str(place)) for word in words), *more.split())
        said = capsys.readouterr()
        missing = "observe.wandb=my-project" in words and find_spec("wandb") is None
        assert code == (2 if missing else 0), f"tsd {' '.join(words)}\n{said.out}{said.err}"


def anchors(page: Path) -> set[str]:
    """What a link may name of a page after `#`: its headings, in small letters with dashes."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_of_a_page_are_there_and_its_lines_are_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    assert [line for line in text.splitlines() if len(line) > MAX_LINE] == []


def test_the_index_and_the_readme_name_every_page() -> None:
    names = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^- \[.*?\]\((\w+\.md)\)", (DOCS / "README.md").read_text(), re.MULTILINE)) == names
    assert set(re.findall(r"\(tsd/docs/(\w+\.md)\)", (ROOT / "README.md").read_text())) == names
