"""Every command that the documentation shows is run, in short where it would take minutes; its pages' links exist."""

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
PAGES = (ROOT / "README.md", ROOT / "tsd" / "README.md")
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
BY_OTHERS = {"soak": "tests/test_soak.py"}
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
    readme = PAGES[0].read_text(encoding="utf-8")
    (task,) = (block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL) if "class Tens" in block)
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


def test_links_and_pictures_of_the_pages_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
