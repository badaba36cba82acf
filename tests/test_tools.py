"""The tools that print the figures of the documentation: each can be loaded and says what it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
PYTHON = sorted(
    path for path in TOOLS.rglob("*") if path.is_file() and not path.suffix and '"""' in path.read_text()[:400]
)


def test_there_are_tools() -> None:
    assert {path.name for path in PYTHON} >= {"ablate_search", "compare_solving", "compare_trainer", "gpu_check", "run"}


@pytest.mark.timeout(90)  # each loads torch in a process of its own: half a minute together
@pytest.mark.parametrize("tool", PYTHON, ids=lambda path: path.name)
def test_a_tool_says_what_it_takes(tool: Path) -> None:
    command = [sys.executable, str(tool), "--help"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert found.returncode == 0, found.stderr
    assert "usage:" in found.stdout


@pytest.mark.timeout(300)
def test_the_way_of_weights_through_the_host_stands_beside_an_earlier_commits() -> None:
    command = [sys.executable, str(TOOLS / "compare_sync"), "--shape", "tiny", "--rounds", "1", "--before", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert found.returncode == 0, found.stderr
    assert "before is commit HEAD" in found.stdout
    stages = [line.split("  ")[0] for line in found.stdout.splitlines()[3:]]
    assert stages[-4:] == ["all", "all, of CPU time", "GB sent", "GB held at most"]
    assert len(stages) == 9


@pytest.mark.timeout(120)
def test_the_ablation_runs_on_the_mock_engine() -> None:
    command = [sys.executable, str(TOOLS / "ablate_search"), "mock", "--problems", "2", "--tokens", "100"]
    found = subprocess.run(
        [*command, "--only", "samples,index,pUCT"], capture_output=True, text=True, timeout=50, check=False
    )
    assert found.returncode == 0, found.stderr
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["samples", "index", "pUCT"]
