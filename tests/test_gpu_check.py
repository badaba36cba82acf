"""The script that measures a GPU, rehearsed on a CPU: the parts that need no vLLM, whose own tests are elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "gpu_check"


@pytest.mark.timeout(300)
def test_what_a_cpu_can_rehearse_of_the_gpu_check_is_green(tmp_path: Path) -> None:
    found_file = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--json", str(found_file)]
    done = subprocess.run([*command, "--parts", "versions,trainer-parity"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(found_file.read_text())
    gaps, steps = found["trainer-parity"]["rows"]
    assert gaps["float32_logprob_gap"] < 1e-4
    assert gaps["worst_gradient_gap"] < 1e-4
    assert steps["inner_steps_cosine"] > 0.9999, "two steps on a batch are the same two one by one"


def test_a_part_that_is_not_there_is_refused_with_those_that_are() -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--parts", "versions,nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no part 'nothing'; there are versions, trainer-parity" in done.stderr
