"""One tree at a glance, while it grows: a small file that a generator overwrites, and how the dashboard draws it.

Knows nothing about how trees grow.
"""

from pathlib import Path

import msgspec
from rich.text import Text

from tsd.config.whole import write_whole
from tsd.observe.printable import printable
from tsd.types import Glance, GlanceStep

GLANCE_FILE = "glance.json"
_decoder = msgspec.json.Decoder(Glance)


def write_glance(run_dir: Path, glance: Glance) -> None:
    """Whole or not at all; a disk that does not take it is for what must be written to find out."""
    try:
        write_whole(run_dir / GLANCE_FILE, msgspec.json.encode(glance))
    except OSError:
        return


def read_glance(run_dir: Path) -> Glance | None:
    """The last one; None where there is none that can be read."""
    try:
        return _decoder.decode((run_dir / GLANCE_FILE).read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def draw_glance(glance: Glance | None, num_lines: int) -> list[Text]:
    """At most `num_lines` lines: the problem, then steps with N and Q, the chosen path marked by its arrow."""
    if glance is None:
        return [Text("no tree yet", style="bright_black")]
    spent = (
        f"simulation {_of(glance.num_simulations, glance.max_simulations)}, "
        f"{_of(glance.num_generated, glance.max_tokens)} tokens, {glance.num_nodes:,} nodes"
    )
    head = Text(f"{_line(glance.prompt)}   {spent}{', solved' if glance.solved else ''}", style="bold")
    return [head, *(_step(step) for step in glance.steps)][:num_lines]


def _of(count: int, limit: int) -> str:
    return f"{count:,} of {limit:,}" if limit else f"{count:,}"


def _step(step: GlanceStep) -> Text:
    mark = "*" if step.solved else ">" if step.on_path else " "
    numbers = f"N {step.visits:>4} Q {step.q:+.2f} "
    text = Text(f"{numbers}{mark} {'  ' * (step.depth - 1)}{_line(step.text)}", no_wrap=True, overflow="ellipsis")
    text.stylize("bold" if step.on_path else "bright_black", len(numbers))
    return text


def _line(text: str) -> str:
    return printable(" ".join(text.split()))
