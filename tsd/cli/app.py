"""The command line: reads options, calls the part that does the work, and turns refusals and faults into one line.

Imports what a command needs inside the command, so that `tsd --help` answers at once.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer
from rich.console import Console
from typer.core import TyperGroup

from tsd import __version__
from tsd.cli import make, view
from tsd.cli.make import Seed, Settings
from tsd.errors import TaskError, TsdError
from tsd.observe.output import lasting
from tsd.observe.printable import printable

Model = Annotated[
    str, typer.Option(metavar="MODEL", help="A Hugging Face model's directory or name, or `builtin:countdown-tiny`.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
Gpus = Annotated[
    str | None,
    typer.Option(
        help="Which device does what: generators search, trainers learn. GPU numbers, ranges and lists, each with "
        "a role: `0-5:gen,6-7:train`, `0,2:gen,3:train`; `0+1:gen` is one generator over two GPUs; without GPUs "
        "`cpu:gen,cpu:train`, where `cpu` may be repeated. [default: the setting `gpus`]"
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="auto|ADDRESS|local:N",
        help="Run on a Ray cluster: the one this machine is part of, the one at that address, or N nodes on this "
        "machine. --gpus then says how many: `12:gen,4:train`; `3x2:gen` is 3 generators of 2 GPUs each, "
        "`2xcpu:gen` 2 on CPUs.",
    ),
]
BUILTIN_MODEL = "builtin:countdown-tiny"

INTERRUPTED = 130
"""128 and SIGINT's number, as shells count."""


class Interruptible(TyperGroup):
    """Ends with shells' own exit code on Ctrl-C, where a command does not deal with it itself."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(_complain("stopped", INTERRUPTED)) from None


app = typer.Typer(
    cls=Interruptible,
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
    """Runs a command: 0 done, 1 a fault while running, 2 what was asked for cannot be, or a task of one's own is at
    fault, 128 + N stopped by signal N."""
    try:
        command()
    except (ValueError, TaskError) as error:
        return _complain(f"error: {error}", 2)
    except TsdError as error:
        # A run that a signal stopped says how to go on; it knows its own exit code.
        code: int = getattr(error, "exit_code", 0)
        return _complain(str(error), code) if code else _complain(f"error: {error}", 1)
    except OSError as error:
        return _complain(f"error: {error}", 1)
    return 0


def _complain(line: str, code: int) -> int:
    _say(printable(line, keep="\n"), sys.stderr)
    return code


def _say(text: str, file: TextIO) -> None:
    """Prints, where anybody still reads it."""
    with lasting(file, lambda error: None):
        print(text, file=file, flush=True)


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
    gpus: Gpus = None,
    set_: Settings = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run keeps everything; new or empty. [default: runs/DATE-TIME]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this directory, from its last checkpoint.")
    ] = None,
    max_updates: Annotated[int | None, typer.Option(min=1, help="Same as `--set train.num_updates=N`.")] = None,
    cluster: Cluster = None,
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

    - `tsd launch --cluster auto --gpus 12:gen,4:train --dry-run`: on many machines, see docs/machines.md

    - `tsd launch --resume runs/20250131-120000 --max-updates 400`: further
    """
    from tsd.doctor.machine import look_over
    from tsd.run.launch import Request
    from tsd.run.launch import dry_run as plan
    from tsd.run.launch import launch as run

    request = Request(config, tuple(set_ or ()), gpus, run_dir, resume, max_updates, cluster)
    if dry_run:
        print(plan(request))
        return
    _say(run(request, Console(), look_over).describe(), sys.stdout)  # summary.json has it too


@app.command("eval")
def evaluate(
    model: Model,
    data: Annotated[
        Path, typer.Option(metavar="FILE", help='JSONL, a problem a line: `{"input":[5,13,5,9],"target":31}`.')
    ],
    k: Annotated[int, typer.Option(min=1, help="Samples of each problem.")] = 16,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [default: 0.8; with --search 1]")] = None,
    top_p: Annotated[float, typer.Option(help="Sample only the likeliest tokens that reach this together.")] = 1.0,
    engine: Annotated[Literal["torch", "vllm"], typer.Option(help="What generates; `vllm` for GPUs.")] = "torch",
    style: Annotated[
        Literal["chat", "compact", "digits"] | None,
        typer.Option(help="How problems are worded. [default: chat where the model has a chat template, else compact]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the file's first N problems.")] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Compare search with samples: problems solved, and what each costs.")
    ] = False,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Measure a model on a file of problems: mean@k, pass@k, share of legal answers.

    Samples the model alone, without search; an answer counts only when it is exact. With --search: problems solved per
    1,000 tokens by search, by independent samples, by the best of 16 by V, and by the majority of 16;
    method.max_tokens is the budget of the first two.

    Examples:

    - `tsd data --out problems`, then `tsd eval --model builtin:countdown-tiny --data problems/heldout.jsonl`

    - `tsd eval --model runs/20250131-120000/checkpoints/update-000200 --data problems/heldout.jsonl --json`

    - `tsd eval --model Qwen/Qwen2.5-1.5B-Instruct --engine vllm --data problems/heldout.jsonl
    --set engine.max_model_tokens=2048 --set search.max_path_tokens=1024`: longer answers
    """
    from tsd.cli.commands import as_json, compare_on_file, describe, evaluate_file, setting
    from tsd.solve import solving_table

    asked: dict[str, object] = {"model.path": model, "task.style": style, "engine.kind": engine}
    if search and top_p != 1:
        raise ValueError("--top-p: search samples the whole policy; leave it out with --search")
    sampled = {"evaluate.k": k, "evaluate.temperature": temperature, "evaluate.top_p": top_p}
    asked |= {"engine.temperature": temperature} if search else sampled
    settings = (*(setting(key, value) for key, value in asked.items() if value is not None), *(set_ or ()))
    if search:
        rows = compare_on_file(settings, data, limit)
        return print(as_json(rows) if json else solving_table(rows))
    result = evaluate_file(settings, data, limit, Console(stderr=True))
    print(as_json(result) if json else describe(result))


@app.command()
def solve(
    problem: Annotated[str, typer.Argument(help='Such as "5 13 5 9 = 31", or a line of a problem file.')],
    model: Model = BUILTIN_MODEL,
    engine: Annotated[Literal["torch", "vllm", "mock"], typer.Option(help="What generates.")] = "torch",
    tokens: Annotated[
        int, typer.Option(min=1, help="Budget, in generated tokens; with --resume, what the tree has had included.")
    ] = 4000,
    tree: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the whole tree as JSON.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="FILE", help="Go on with a tree that --tree wrote.")] = None,
    seed: Seed = 0,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Answer one problem with search, and print the best path found.

    Examples:

    - `tsd solve "5 13 5 9 = 31"`

    - `tsd solve "5 13 5 9 = 31" --tree tree.json`, then `--resume tree.json --tokens 20000`
    """
    from tsd.cli.commands import as_json, describe_solution, setting, solve_problem

    options = {"engine.kind": engine, "model.path": model, "seed": seed}
    options |= {"method.max_tokens": tokens, "method.solutions": 1}
    settings = [setting(key, value) for key, value in options.items()]
    solution = solve_problem([*settings, *(set_ or ())], problem, tree, resume)
    print(as_json(solution) if json else describe_solution(solution))


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's directory or name, as for `tsd eval`.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine's loopback; 0 for any.")] = 8000,
    engine: Annotated[Literal["torch", "vllm", "mock"], typer.Option(help="What generates.")] = "torch",
    seed: Seed = 0,
    set_: Settings = None,
) -> None:
    """Answer whoever asks with search: an OpenAI-compatible endpoint on this machine, until Ctrl-C.

    The last message is a problem as `tsd solve` takes it, `max_completion_tokens` the budget of its tree. Needs the
    extra `tsd[serve]`.

    Examples:

    - `tsd serve builtin:countdown-tiny`, then
    `curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "5 13 5 9 = 31"}]}'`
    """
    from tsd.cli.commands import serve_model, setting

    options = {"engine.kind": engine, "model.path": model, "seed": seed, "method.max_tokens": 4000}
    options |= {"method.solutions": 1, "search.trees": 64}
    settings = [setting(key, value) for key, value in options.items()]
    serve_model([*settings, *(set_ or ())], port, lambda line: print(line, flush=True))


@app.command("bench-search")
def bench_search(
    engine: Annotated[
        Literal["null", "mock", "torch", "vllm"],
        typer.Option(help="What generates: `null` answers at once, so that what is measured is the search itself."),
    ] = "null",
    agents: Annotated[str, typer.Option(help="Agents on a tree; several with commas, such as `1,16`.")] = "16",
    trees: Annotated[str, typer.Option(help="Trees at once; several with commas.")] = "1",
    simulations: Annotated[int, typer.Option(min=1, help="Simulations of each tree.")] = 1600,
    problems: Annotated[
        int,
        typer.Option(
            min=0, help="Problems searched for each row. [default: as many as trees at once]", show_default=False
        ),
    ] = 0,
    plot_: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw solve rate and speed (.svg, .png, .pdf).")
    ] = None,
    model: Model = BUILTIN_MODEL,
    seed: Seed = 0,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Measure how fast search runs, and what share of the engine's own speed it reaches.

    Examples:

    - `tsd bench-search --engine null --agents 1,16`: what a simulation costs without a model

    - `tsd bench-search --engine torch --agents 16 --trees 1,4 --simulations 200 --json`
    """
    from tsd.cli.commands import as_json, measure_search, setting
    from tsd.solve import plot, recommendation, rows_table

    options = {"engine.kind": engine, "model.path": model, "seed": seed}
    options |= {"method.kind": "puct", "method.simulations": simulations}
    rows = measure_search(
        [*(setting(key, value) for key, value in options.items()), *(set_ or ())], agents, trees, problems
    )
    if json:
        print(as_json({"rows": rows, "recommendation": recommendation(rows)}))
    else:
        Console().print(rows_table(rows))
        Console().print(f"Recommended: {recommendation(rows)}", highlight=False)
    if plot_:
        plot(rows, plot_)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long faults are injected.")] = 20.0,
    engine: Annotated[
        Literal["mock", "torch", "vllm"], typer.Option(help="What generates; `mock` needs no model and is quick.")
    ] = "mock",
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of the run; new. [default: runs/soak-SEED-TIME]")
    ] = None,
    cluster: Annotated[
        str, typer.Option(metavar="local:N", help="On a cluster of N nodes on this machine, which come and go.")
    ] = "",
    seed: Seed = 1,
    set_: Settings = None,
    json: Json = False,
) -> None:
    """Run under faults drawn from a seed, then audit: is anything lost, used twice, wrong, or left behind?

    Kills and freezes generators, trainer and launcher, and sends noise, damaged and repeated frames. Exits with 1 where
    the audit is not clean.

    Examples:

    - `tsd soak --minutes 2`: on the mock engine

    - `tsd soak --minutes 10 --engine vllm --seed 2`

    - `tsd soak --cluster local:3 --minutes 10`: nodes of a Ray cluster are lost and join
    """
    from tsd.cli.commands import as_json, describe_audit, setting, torment

    where = run_dir or Path("runs") / f"soak-{seed}-{time.strftime('%H%M%S')}"
    settings = [setting("engine.kind", engine), *(set_ or ())]
    found = torment(where, settings, minutes, seed, cluster, Console(stderr=True).print)
    print(as_json(found) if json else describe_audit(found))
    if not found.is_clean:
        raise typer.Exit(1)


make.register(app)
view.register(app)

if __name__ == "__main__":
    sys.exit(main())
