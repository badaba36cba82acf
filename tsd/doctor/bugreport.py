"""`tsd bugreport`: what an issue about a run should hold, in one text file for people to read before they send it.

No secrets: neither keys nor environment variables nor anything a model wrote, and the home directory is `~`. Reads
what a run left behind; starts nothing.
"""

import platform
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tsd import __version__
from tsd.config import Config, load_config
from tsd.doctor.machine import Machine, examine, look
from tsd.observe.metrics import METRICS_FILE
from tsd.observe.printable import printable
from tsd.run.rundir import CONFIG_FILE, SUMMARY_FILE, check_run

NUM_ROWS, NUM_LOG_LINES = 60, 60
HIDDEN = ("keys", "wandb", "trackio")
"""Settings that say where secrets or accounts are."""


def write_report(run_dir: Path, path: Path) -> None:
    """Raises ValueError where there is no run, or the file is there already."""
    check_run(run_dir, str(run_dir))
    if path.exists():
        raise ValueError(f"{path} is there already; name another with --out")
    path.write_text(describe_run(run_dir, Path.home()), encoding="utf-8")


def describe_run(run_dir: Path, home: Path) -> str:
    """The whole text."""
    text = "\n\n".join(f"## {title}\n\n```\n{_inert(body)}\n```" for title, body in _sections(run_dir))
    return f"# tsd bug report\n\nWhat happened, and what was expected:\n\n\n{text}\n".replace(str(home), "~")


def _sections(run_dir: Path) -> Iterator[tuple[str, str]]:
    config_file = run_dir / CONFIG_FILE
    config: Config | None = None
    trouble = ""
    try:
        config = load_config(config_file)
    except ValueError as error:  # of another version, or damaged: that too is worth reporting
        trouble = f"{error}\n"
    machine = look(run_dir)
    yield "Versions", _versions(machine)
    yield "Configuration", f"{trouble}{_without_hidden(config_file)}"
    if config is not None:
        yield "tsd doctor --quick", _findings(config, run_dir, machine)
    if (run_dir / SUMMARY_FILE).is_file():
        yield SUMMARY_FILE, (run_dir / SUMMARY_FILE).read_text(encoding="utf-8", errors="replace").strip()
    yield f"Last of {METRICS_FILE}", _last(run_dir / METRICS_FILE, NUM_ROWS)
    for log in sorted((run_dir / "logs").glob("*.log")):
        yield f"Last of logs/{log.name}", _last(log, NUM_LOG_LINES)


def _versions(machine: Machine) -> str:
    lines = [f"tsd {__version__}", f"Python {platform.python_version()}, {platform.platform()}"]
    lines.append(f"{machine.cores} cores, {machine.memory / 1e9:.1f} GB free, {machine.disk / 1e9:.1f} GB of disk free")
    return "\n".join([*lines, *(f"{name} {version}" for name, version in sorted(machine.versions.items()))])


def _findings(config: Config, run_dir: Path, machine: Machine) -> str:
    try:
        found = examine(config, config.placement, run_dir, machine)
    except ValueError as error:
        return str(error)
    return "\n".join(f"{finding.level:<8} {finding}" for finding in found)


def _without_hidden(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    hidden = tuple(f"{name} =" for name in HIDDEN)
    return "\n".join(f"{line.split('=')[0]}= (left out)" if line.startswith(hidden) else line for line in lines)


def _last(path: Path, count: int) -> str:
    """A file's last lines."""
    if not path.is_file():
        return "none"
    with path.open(encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, maxlen=count)).strip()


def _inert(text: str) -> str:
    """What can end no fence and move no cursor."""
    return printable(text, keep="\n").replace("```", "` ` `")
