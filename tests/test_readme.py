"""What the README shows runs as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launching import launched
from tests.support.runs import SHORT, finish, summary

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
LIBRARY, TASK = "Search as a library", "A task of your own"


def blocks(language: str) -> dict[str, str]:
    """Of each section that has one, the example in that language."""
    sections = re.split(r"^## ", README, flags=re.MULTILINE)[1:]
    found = {one.partition("\n")[0]: re.findall(rf"```{language}\n(.*?)```", one, flags=re.DOTALL) for one in sections}
    assert all(len(examples) <= 1 for examples in found.values() if language == "python")
    return {section: examples[0] for section, examples in found.items() if examples}


@pytest.mark.parametrize(("section", "most_lines"), [(LIBRARY, 20), (TASK, 30)])
def test_each_python_example_is_short(section: str, most_lines: int) -> None:
    assert blocks("python").keys() == {LIBRARY, TASK}
    assert len([line for line in blocks("python")[section].splitlines() if line.strip()]) <= most_lines


@pytest.mark.timeout(120)
def test_the_task_of_ones_own_is_trained_on_as_it_stands_there(tmp_path: Path) -> None:
    """By the command that the section gives, cut short."""
    (tmp_path / "tens.py").write_text(blocks("python")[TASK])
    program, *command = shlex.split(blocks("sh")[TASK], comments=True)
    assert program == "tsd"
    options = (*SHORT, "--max-updates", "3", "--gpus", "cpu:gen,cpu:train", "--run-dir", str(tmp_path / "run"))
    started = ["env", "-C", str(tmp_path), sys.executable, "-m", "tsd", *command, *options]
    with launched(started) as run:
        finish(run, 100)
    found = summary(tmp_path / "run")
    assert found["num_updates"] == 3
    assert found["before"]["num_problems"] == found["after"]["num_problems"] == 8


def test_search_as_a_library_runs_without_torch_or_zmq() -> None:
    block = blocks("python")[LIBRARY]
    check = "\nimport sys\nassert not {'torch', 'zmq', 'vllm', 'transformers'} & sys.modules.keys()"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", block + check], capture_output=True, text=True, timeout=50, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("solved 1.0")
    assert "<answer>" in found.stdout


def test_every_test_that_the_readme_names_is_there() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", README))
    assert len(named) >= 25
    assert {name for name in named if f"def {name}(" not in tests} == set()
