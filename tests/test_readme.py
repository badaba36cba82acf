"""What the README shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_is_an_example_of_search_as_a_library_in_about_twenty_lines() -> None:
    assert len(BLOCKS) == 1
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("block", BLOCKS)
def test_each_python_example_runs_without_torch_or_zmq(block: str) -> None:
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
