"""`tsd doctor`: the quick part and the engine's, one after the other, and how their findings are shown."""

import json
from collections.abc import Sequence
from os import environ
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tsd.config import MAIN_JOB, load_config
from tsd.config.devices import visible_gpus
from tsd.doctor.machine import Finding, examine, look
from tsd.doctor.trial import examine_task
from tsd.errors import EngineError
from tsd.model.hub import FILES, SMALL, fetched
from tsd.observe.printable import printable

MARKS = {"fine": ("ok", "green"), "warning": ("look", "yellow"), "error": ("WRONG", "bold red")}
"""Words, so that no meaning hangs on colour."""


def diagnose(
    path: Path | None, settings: Sequence[str], gpus: str | None, directory: Path, quick: bool, progress: Console
) -> list[Finding]:
    """All findings for a run. Raises ValueError for settings that cannot be."""
    config = fetched(load_config(path or MAIN_JOB, settings), SMALL if quick else FILES)
    config = msgspec.structs.replace(config, gpus=gpus or config.gpus)
    placement = config.placement
    found = [_devices(placement.gpus), *examine(config, placement, directory, look(directory, placement.gpus))]
    if quick or any(finding.level == "error" for finding in found):
        return found
    from tsd.doctor.parity import examine_engine  # torch, and with it seconds

    with progress.status(f"starting the {config.engine.kind} engine, and comparing it with the trainer's model"):
        try:
            return [*found, *examine_engine(config)]
        except EngineError as error:
            return [*found, Finding("engine", "error", str(error), "see the lines above")]


def try_task(path: Path | None, settings: Sequence[str], name: str) -> list[Finding]:
    """All findings for a task. Raises ValueError for settings that cannot be."""
    return list(examine_task(load_config(path or MAIN_JOB, (*settings, f"task.name={json.dumps(name)}"))))


def _devices(gpus: Sequence[str]) -> Finding:
    """Whether the GPUs asked for are here."""
    if not gpus:
        return Finding("devices", "fine", "the CPU")
    visible = visible_gpus(environ)
    missing = [gpu for gpu in gpus if int(gpu) >= len(visible)]
    if not missing:
        return Finding("devices", "fine", f"GPUs {', '.join(gpus)} of {len(visible)}")
    text = f"GPU {', '.join(missing)} asked for, and this machine shows {len(visible)}"
    return Finding("devices", "error", text, "name others with --gpus; cpu:gen,cpu:train needs none")


def findings_table(found: Sequence[Finding]) -> Table:
    """One line each, and its remedy below."""
    table = Table.grid(padding=(0, 2))
    for finding in found:
        mark, style = MARKS[finding.level]
        table.add_row(Text(mark, style=style), Text(finding.about), Text(printable(finding.text)))
        if finding.remedy:
            table.add_row("", "", Text(f"-> {printable(finding.remedy)}", style="bold"))
    return table


def findings_json(found: Sequence[Finding]) -> str:
    """For scripts."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
