"""Launches in processes of their own, and what they leave."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.launching import Launched
from tsd.learn.checkpoint import TrainState, latest_checkpoint, load_state
from tsd.observe.metrics import MetricsReader, UpdateRow

TSD = (sys.executable, "-m", "tsd", "launch")


MOCK = ("--config", str(Path(__file__).parent.parent.parent / "configs" / "mock.toml"))


BRIEF = tuple(
    word
    for setting in (
        "evaluate.num_problems=8",
        "evaluate.k=4",
        "train.batch_size=8",
        "train.publish_every=1",
        "task.num_train=200",
    )
    for word in ("--set", setting)
)


SMALL = (*BRIEF, "--set", "method.max_tokens=200", "--set", "search.trees=2")
"""For the main job, whose method is another than the mock configuration's."""
SHORT = (*BRIEF, "--set", "method.agents=4", "--set", "method.simulations=12")


def finish(run: Launched, seconds: float) -> str:
    """Waits for a launch to end well; what it printed."""
    output, _ = run.process.communicate(timeout=seconds)
    assert run.process.returncode == 0, output[-3000:]
    assert run.alive() == []
    return str(output)


def summary(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def updates(run_dir: Path) -> list[UpdateRow]:
    return [row for row in MetricsReader(run_dir).read() if isinstance(row, UpdateRow)]


def state(run_dir: Path) -> TrainState:
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint is not None
    return load_state(checkpoint)
