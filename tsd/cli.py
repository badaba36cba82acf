"""The command line: reads options, calls the part that does the work, and turns refusals and faults into one line.

Imports what a command needs inside the command, so that `tsd --help` answers at once.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tsd import __version__
from tsd.errors import TsdError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Tree-search distillation for language models: search reasoning steps with MCTS, distil the result with PPO."
    "\n\nStart here: `tsd launch` trains the small built-in model on Countdown, on the CPU.",
)


def main() -> int:
    """The `tsd` command."""
    return exit_code(app)


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command: 0 done, 1 a fault while running, 2 something asked for cannot be, 128 + N stopped by signal N."""
    try:
        command()
    except ValueError as error:
        return _complain(f"error: {error}", 2)
    except TsdError as error:
        # A run that a signal stopped says how to go on; it knows its own exit code.
        code: int = getattr(error, "exit_code", 0)
        return _complain(str(error), code) if code else _complain(f"error: {error}", 1)
    return 0


def _complain(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tsd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before a command."""


@app.command()
def launch(
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the run's settings; every setting has a default.")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            help="Which device does what: generators search, trainers learn. GPU numbers, ranges and lists, each with "
            "a role: `0-5:gen,6-7:train`, `0,2:gen,3:train`; without GPUs `cpu:gen,cpu:train`, where `cpu` may be "
            "repeated. [default: the setting `gpus`]"
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting, such as `search.agents=32`."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run keeps everything; new or empty. [default: runs/DATE-TIME]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this directory, from its last checkpoint.")
    ] = None,
    max_updates: Annotated[int | None, typer.Option(min=1, help="Same as `--set train.num_updates=N`.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the memory it needs, and start nothing.")
    ] = False,
) -> None:
    """Train a model: evaluate, search and learn, evaluate again.

    Starts a process on each device, shows them live, and leaves none behind. The result is `summary.json` in the run's
    directory. Ctrl-C stops it in order (twice: at once); `--resume` goes on.

    Examples:

    - `tsd launch`: the small built-in model, on the CPU

    - `tsd launch --max-updates 20 --set evaluate.num_problems=50`: the same, in short

    - `tsd launch --config configs/countdown-qwen2.5-1.5b.toml --gpus 0-5:gen,6-7:train --dry-run`: what would run where

    - `tsd launch --resume runs/20250131-120000 --max-updates 400`: further
    """
    from tsd.launch import Request, start
    from tsd.launch import dry_run as plan

    request = Request(config, tuple(set_ or ()), gpus, run_dir, resume, max_updates)
    if dry_run:
        print(plan(request))
        return
    start(request, Console())


if __name__ == "__main__":
    sys.exit(main())
