"""Commands that make what runs begin with, or change one under way.

Registered by `tsd.cli.app`; they import what they need when they run.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting, such as `method.agents=32`."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seeds every random choice.")]


def warmstart(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the model goes; new or empty.")],
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Batches of 64 games. [default: those of the built-in model]")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, max=64, help="Of the model.")] = 4,
    width: Annotated[int, typer.Option(min=8, max=4096, help="Of a layer; a multiple of 8.")] = 128,
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Make the tiny model anew: supervised learning on random Countdown games, some minutes on two cores.

    It is where `tsd launch` starts from; the built-in one was made so.

    Examples:

    - `tsd warmstart --out models/tiny`, then `tsd launch --set model.path=models/tiny`

    - `tsd warmstart --out /tmp/barely-trained --steps 100`

    - `tsd warmstart --out models/tinier --layers 2 --width 64`
    """
    from tsd.cli.commands import make_tiny_model

    for line in make_tiny_model(out, steps, layers, width, seed=seed, num_threads=threads):
        print(line, flush=True)


def calibrate(
    model: Annotated[str, typer.Option(metavar="MODEL", help="A directory or name of a model with a value head.")],
    problems: Annotated[int, typer.Option(min=1, help="Training problems, of which each is sampled 32 times.")] = 250,
    engine: Annotated[Literal["torch", "vllm"], typer.Option(help="What generates.")] = "torch",
    seed: Seed = 0,
    set_: Settings = None,
) -> None:
    """Learn what a model's V is worth, for search by index, and keep that beside its weights.

    Once for a model, from some thousand samples; without it search begins with a guess. Training keeps it up by itself.

    Examples:

    - `tsd calibrate --model my-model`, then `tsd solve "5 13 5 9 = 31" --model my-model`
    """
    from tsd.cli.commands import calibrate_model, setting

    options = {"engine.kind": engine, "seed": seed, "model.path": model}
    settings = [*(setting(key, value) for key, value in options.items()), *(set_ or ())]
    print(calibrate_model(settings, problems))


def keys(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where they go; new.")]) -> None:
    """Make the keys that generators and trainers know each other by, for runs over several machines.

    Sockets of a run with `transport.keys=DIR` are encrypted, and closed to whoever has no key.

    Examples:

    - `tsd keys ~/tsd-keys`, then `tsd launch --set transport.scheme=tcp --set transport.keys=~/tsd-keys`
    """
    from tsd.transport.keys import make_keys

    for path in make_keys(directory):
        print(path)


def scale(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Of a run that `tsd launch --cluster` has begun.")],
    wanted: Annotated[str, typer.Argument(metavar="N:gen", help="How many generators from now on, such as `20:gen`.")],
) -> None:
    """Change how many generators a run on a cluster has, while it goes on.

    New ones start as soon as a node has room. Those that are too many end in order: what they finished waits in the run
    directory.

    Examples:

    - `tsd scale runs/20250131-120000 20:gen`
    """
    from tsd.config.devices import parse_wanted
    from tsd.run.rundir import want

    count = parse_wanted(wanted)
    want(run_dir, count)
    print(f"{run_dir}: {count} generators are wanted")


def data(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the three files.")],
    numbers: Annotated[str, typer.Option(help="Numbers in a problem; several with commas, drawn evenly.")] = "4",
    train: Annotated[int, typer.Option(min=1, help="Problems in train.jsonl.")] = 20_000,
    validation: Annotated[int, typer.Option(min=1, help="Problems in validation.jsonl.")] = 820,
    heldout: Annotated[int, typer.Option(min=1, help="Problems in heldout.jsonl.")] = 820,
    rare: Annotated[bool, typer.Option("--rare", help="Targets as hard to reach as the published ones.")] = False,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    set_: Settings = None,
) -> None:
    """Write problems to files that share none, whatever the seed: for training, validation and evaluation.

    Examples:

    - `tsd data --out problems`

    - `tsd data --out problems --numbers 3,4 --heldout 200 --force`

    - `tsd data --out problems --set task.name=reasoning-gym --set task.dataset=chain_sum`
    """
    from tsd.cli.commands import counts, setting, write_problems

    sizes = {"train": train, "validation": validation, "heldout": heldout}
    settings = [setting("task.num_numbers", counts("--numbers", numbers)), setting("task.rare", rare), *(set_ or ())]
    for line in write_problems(out, settings, sizes, seed=seed, force=force):
        print(line)


def register(app: typer.Typer) -> None:
    """Adds them to the command line."""
    for command in (warmstart, calibrate, keys, scale, data):
        app.command()(command)
