"""What the pages show in Python runs as it stands there; the README stays short, and what pages name is there."""

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from tests.support.launching import launched
from tests.support.runs import BRIEF, finish, summary
from tests.support.wire import HELLO, trajectory, weights
from tsd.transport.codec import encode
from tsd.transport.weights import WeightPublisher

ROOT = Path(__file__).parent.parent
README, DOCS = ROOT / "README.md", ROOT / "tsd" / "docs"
LIBRARY, TASK, WIRE, HTTP = "Search as a library", "A task of your own", "An example", "Answers over HTTP"
EXAMPLES = {
    LIBRARY: (DOCS / "search.md", 20),
    TASK: (DOCS / "tasks.md", 30),
    WIRE: (DOCS / "wire.md", 40),
    HTTP: (DOCS / "guide.md", 10),
}
"""Sections with an example in Python: their pages, and the most lines that each may have."""
MAX_README_LINES, MAX_NAMES = 200, 22


def block(section: str, language: str) -> str:
    """The first example in that language of a page's section."""
    page, _ = EXAMPLES[section]
    sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    (text,) = (one for one in sections if one.startswith(f"{section}\n"))
    found: str = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)[0]
    return found


@pytest.mark.parametrize("section", EXAMPLES)
def test_each_python_example_is_short(section: str) -> None:
    page, most_lines = EXAMPLES[section]
    assert page.read_text(encoding="utf-8").count("```python\n") == 1
    assert len([line for line in block(section, "python").splitlines() if line.strip()]) <= most_lines


def test_no_page_has_a_python_example_that_is_not_run() -> None:
    pages = {page for page in (README, *DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")}
    assert pages == {page for page, _ in EXAMPLES.values()}


def test_the_endpoint_answers_as_the_guide_asks_it() -> None:
    command = (sys.executable, "-m", "tsd", "serve", "builtin:countdown-tiny", "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        address = served.stdout.readline().partition(": ")[0]
        example = block(HTTP, "python").replace("http://127.0.0.1:8000/v1", address)
        asked = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=50)
        served.terminate()
    assert "</answer>" in asked.stdout, asked.stderr
    assert "'tree': " in asked.stdout


@pytest.mark.timeout(120)
def test_the_task_of_ones_own_is_trained_on_as_it_stands_there(tmp_path: Path) -> None:
    """By the command that the section gives, cut short."""
    (tmp_path / "tens.py").write_text(block(TASK, "python"))
    program, *command = shlex.split(block(TASK, "sh"), comments=True)
    assert program == "tsd"
    less = ("--set", "method.max_tokens=60", "--set", "method.solutions=1")
    options = (*BRIEF, *less, "--max-updates", "3", "--gpus", "cpu:gen,cpu:train", "--run-dir", str(tmp_path / "run"))
    started = ["env", "-C", str(tmp_path), sys.executable, "-m", "tsd", *command, *options]
    with launched(started) as run:
        finish(run, 100)
    found = summary(tmp_path / "run")
    assert found["num_updates"] == 3
    assert found["before"]["num_problems"] == found["after"]["num_problems"] == 8


async def talk_to(command: list[str], trajectories: str, snapshots: str) -> str:
    """What a program says that is sent a trajectory and answered with weights."""
    with zmq.asyncio.Context() as context, WeightPublisher(context, snapshots, HELLO, "a") as publisher:
        await publisher.publish(weights(4))
        serving = asyncio.create_task(publisher.serve(), name="serve")
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        push = context.socket(zmq.PUSH)
        push.connect(trajectories)
        await push.send(encode(trajectory("3-a")))
        async with asyncio.timeout(50):
            said, _ = await process.communicate()
        serving.cancel()
        push.close(linger=0)
    return said.decode()


def test_others_read_the_wire_with_messagepack_and_zeromq_alone(tmp_path: Path) -> None:
    program = tmp_path / "others.py"
    check = "\nassert not {'tsd', 'msgspec', 'numpy', 'torch'} & sys.modules.keys()"
    program.write_text(block(WIRE, "python") + check)
    sockets = tuple(f"ipc://{tmp_path}/{name}" for name in ("t", "s"))
    command = [sys.executable, "-W", "error", str(program), *sockets, HELLO.run, HELLO.tokenizer]
    said = asyncio.run(talk_to(command, *sockets))
    assert said.splitlines() == ["3-a-0 reward 0.25 tokens [3, 4, 5]", "weights 4 in 4 frames"], said


def test_search_as_a_library_runs_without_torch_or_zmq() -> None:
    check = "\nimport sys\nassert not {'torch', 'zmq', 'vllm', 'transformers'} & sys.modules.keys()"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", block(LIBRARY, "python") + check],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("solved 1.0")
    assert "<answer>" in found.stdout


def test_every_test_that_the_pages_name_is_there() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    pages = "".join(page.read_text(encoding="utf-8") for page in (README, *sorted(DOCS.glob("*.md"))))
    named = set(re.findall(r"`(test_\w+)`", pages))
    assert len(named) >= 25
    assert {name for name in named if f"def {name}(" not in tests} == set()
    files = set(re.findall(r"`(?:\.venv/bin/pytest |pytest (?:-s )?)?(tests/[\w/]+\.py)`", pages))
    assert len(files) >= 10
    assert {name for name in files if not (ROOT / name).is_file()} == set()


def test_the_readme_is_short_and_says_how_to_test() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    assert "\ntools/check" in text


def test_the_packages_folder_tells_its_story_in_few_names() -> None:
    names = {path.name for path in (ROOT / "tsd").iterdir() if not path.name.startswith((".", "__pycache__"))}
    assert len(names) <= MAX_NAMES, sorted(names)
