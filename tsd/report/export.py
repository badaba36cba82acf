"""A run's trained model as a plain Hugging Face directory, with a card that says how it was made.

Copies what a checkpoint holds of the model; what only tsd needs (value head, optimizer, state) stays behind.
Knows nothing about learning.
"""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from tsd import __version__
from tsd.config import kind, load_config
from tsd.learn.checkpoint import BEST, CHECKSUM_FILE, STATE_FILE, WAITING, damage, load_state
from tsd.learn.validation import chosen_checkpoint, why_chosen
from tsd.model.files import MOCK_FILE, OPTIMIZER_FILE, VALUE_HEAD_FILE
from tsd.model.policy import Policy
from tsd.run.rundir import CONFIG_FILE, check_run

LEFT_BEHIND = (BEST, WAITING, CHECKSUM_FILE, VALUE_HEAD_FILE, STATE_FILE, OPTIMIZER_FILE)
CARD_FILE = "README.md"


def export(run_dir: Path, out: Path) -> Path:
    """Writes the model to `out`, which must not exist: of the best checkpoint where the run keeps that, else of the
    newest. Returns the checkpoint.

    Raises ValueError where there is no run, no model in it yet, or something at `out`; for a model that is not whole.
    """
    check_run(run_dir, str(run_dir))
    checkpoint = chosen_checkpoint(run_dir, load_config(run_dir / CONFIG_FILE).train.keep_best)
    if checkpoint is None:
        raise ValueError(f"{run_dir} has no checkpoint yet; wait for one, or resume the run")
    if (checkpoint / MOCK_FILE).exists():
        raise ValueError(f"{run_dir} ran on the mock engine: there is no model in it")
    if wrong := damage(checkpoint):
        raise ValueError(f"{checkpoint} is damaged: {wrong}; tsd launch --resume {run_dir} sets it aside")
    if out.exists():
        raise ValueError(f"{out} is there already; name another --out")
    Policy.look_over(checkpoint)
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    (out / CARD_FILE).write_text(card(run_dir, checkpoint), encoding="utf-8")
    return checkpoint


def card(run_dir: Path, checkpoint: Path) -> str:
    """The model card, in Markdown."""
    config, state = load_config(run_dir / CONFIG_FILE), load_state(checkpoint)
    task = f"{config.task.name} with {' or '.join(map(str, config.task.num_numbers))} numbers"
    lines = [
        f"- task: {task}, prompts in {config.task.style} style, answers at a sampling temperature of "
        f"{config.engine.temperature:g} in training",
        f"- method: {kind(config.method)}, with the {kind(config.loss)} loss; seed {config.seed}",
        f"- of its checkpoints {why_chosen(run_dir, checkpoint)}",
        f"- {state.update:,} updates at a learning rate of {config.train.learning_rate:g}, from "
        f"{state.num_trajectories:,} trajectories; {state.generated_tokens:,} tokens were generated for them",
        *(_evaluated(run_dir, when) for when in ("before", "after") if (run_dir / f"{when}.json").exists()),
    ]
    return "\n".join(
        (
            f"# {config.model.path}, trained by tree-search distillation\n",
            f"Made by tsd {__version__} from `{config.model.path}`. The value head is left out.\n",
            *lines,
            "\nAll settings:\n",
            "```toml",
            (run_dir / CONFIG_FILE).read_text(encoding="utf-8").strip(),
            "```\n",
        )
    )


def _evaluated(run_dir: Path, when: str) -> str:
    found: dict[str, Any] = msgspec.json.decode((run_dir / f"{when}.json").read_bytes())
    low, high = found["ci95"]
    return (
        f"- {when} training: mean@{found['k']} {found['mean_at_k']:.1%} [{low:.1%}, {high:.1%}] on "
        f"{found['num_problems']} held-out problems at a temperature of {found['temperature']:g}; legal answers "
        f"{found['format_rate']:.1%}"
    )
