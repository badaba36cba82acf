"""Commands that only read what others wrote. Registered by `tsd.cli.app`; they import what they need when they run."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from tsd.report.examples import Examples
    from tsd.report.run import RunReport


def tree(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tree that `tsd solve --tree` wrote.")],
    html: Annotated[
        Path | None, typer.Option(metavar="F.html", help="Write a page to explore the tree in instead; no network.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Most nodes drawn in the terminal, the most visited ones.")] = 40,
) -> None:
    """Look at a saved tree: visits N, mean value Q, prior P and V of each step; the chosen path is marked.

    Examples:

    - `tsd tree tree.json`: after `tsd solve "5 13 5 9 = 31" --tree tree.json`

    - `tsd tree tree.json --html tree.html`: one file to open in a browser, with a slider over the tree's growth
    """
    from tsd.report.tree import draw, page
    from tsd.solve.solve import read_tree

    saved = read_tree(file)
    if html is None:
        Console(soft_wrap=True).print(draw(saved, nodes), highlight=False)
    else:
        html.write_text(page(saved, file.name), encoding="utf-8")
        print(html)


def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Of a run of `tsd launch`, running or ended.")],
    svg: Annotated[
        Path | None, typer.Option(metavar="F.svg", help="Write the picture as it is now, and do no more.")
    ] = None,
) -> None:
    """Watch a run from any terminal: the dashboard of `tsd launch`, until the run ends or Ctrl-C.

    Examples:

    - `tsd watch runs/20250131-120000`
    """
    from tsd.observe.dashboard import board_of, save_picture, watch

    if svg:
        save_picture(run_dir, svg)
        print(svg)
        return
    console = Console()
    with suppress(KeyboardInterrupt):
        asyncio.run(watch(board_of(run_dir, console), console))


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Of a run of `tsd launch`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the model goes; new.")],
) -> None:
    """Write a run's trained model as a plain Hugging Face directory, with a card that says how it was trained.

    It is the best checkpoint of a run that has `train.keep_best`, and else the newest.

    Examples:

    - `tsd export runs/20250131-120000 --out my-model`
    """
    from tsd.learn.validation import why_chosen
    from tsd.report.export import export

    checkpoint = export(run_dir, out)
    print(f"{out}: the model of {checkpoint}, {why_chosen(run_dir, checkpoint)}")


def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="Of runs of `tsd launch`, running or ended.")
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="F.html", help="Write one page with curves and example trees; no network.")
    ] = None,
    trees: Annotated[
        bool,
        typer.Option(
            "--trees/--no-trees", help="With --html: search a few example trees, in seconds on torch, minutes on vllm."
        ),
    ] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
    ] = False,
) -> None:
    """Compare runs: what differs in their settings, held-out results, health of learning, speed, where everything went.

    Examples:

    - `tsd report runs/20250131-120000`

    - `tsd report runs/a runs/b --html report.html`: curves, and problems searched before and after training
    """
    import msgspec

    from tsd.report.page import page
    from tsd.report.run import read_runs
    from tsd.report.terminal import draw

    runs, console = read_runs(run_dirs), Console()
    if html is not None:
        html.write_text(page(runs, _examples(runs) if trees else ()), encoding="utf-8")
    if json:
        print(msgspec.json.format(msgspec.json.encode({"runs": runs}), indent=2).decode())
    elif html is not None:
        print(html)
    else:
        console.print(draw(runs, console.width), highlight=False)


def _examples(runs: "Sequence[RunReport]") -> "list[Examples]":
    from tsd.report.examples import search_examples

    return [search_examples(run) for run in runs]


def doctor(
    config: Annotated[Path | None, typer.Option(help="The run's TOML file, as for `tsd launch`.")] = None,
    gpus: Annotated[str | None, typer.Option(help="Devices, as for `tsd launch`.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="As for `tsd launch`.")
    ] = None,
    run_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where the run would go.")] = Path("runs"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Only what `tsd launch` looks at by itself: start no engine.")
    ] = False,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Try a task instead, named as in task.name: `FILE.py:CLASS`.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
    ] = False,
) -> None:
    """Look for what would go wrong in a run, before it begins; each finding comes with its remedy.

    Packages that clash, devices, memory, disk, limits, ports, the model's files; then the engine is started and its
    logprobs and values compared with the trainer's, before and after new weights. Exits with 1 where there is an error.
    With --task: its splits, prompts, and how it grades odd responses, on ten problems of each split.

    Examples:

    - `tsd doctor`: for the main job on this machine

    - `tsd doctor --config configs/countdown-qwen2.5-1.5b.toml --gpus 0-5:gen,6-7:train --quick`

    - `tsd doctor --task tens.py:Tens`
    """
    from tsd.doctor.diagnosis import diagnose, findings_json, findings_table, try_task

    settings = tuple(set_ or ())
    if task is None:
        found = diagnose(config, settings, gpus, run_dir, quick, Console(stderr=True))
    else:
        found = try_task(config, settings, task)
    if json:
        print(findings_json(found))
    else:
        Console().print(findings_table(found))
    if any(finding.level == "error" for finding in found):
        raise typer.Exit(1)


def bugreport(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Of the run that went wrong.")],
    out: Annotated[Path | None, typer.Option(metavar="F.md", help="[default: bugreport-RUN.md]")] = None,
) -> None:
    """Bundle what an issue should hold, in one text file: configuration, versions, last metrics and logs; no secrets.

    Examples:

    - `tsd bugreport runs/20250131-120000`
    """
    from tsd.doctor.bugreport import write_report

    path = out or Path(f"bugreport-{run_dir.resolve().name}.md")
    write_report(run_dir, path)
    print(f"{path}: read it before you send it")


def config(
    prefix: Annotated[str, typer.Argument(help="Only settings whose name begins so, such as `search.`")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page tsd/config/README.md.")] = False,
) -> None:
    """Explain every setting: its default, what may be written there, and what it does.

    Examples:

    - `tsd config search.`

    - `tsd config method`
    """
    from tsd.config.reference import markdown as page
    from tsd.config.reference import plain, reference

    print(page(reference()) if markdown else plain(reference(), prefix, Console().width))


def register(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command()(tree)
    app.command()(watch)
    app.command()(export)
    app.command()(report)
    app.command()(doctor)
    app.command()(bugreport)
    app.command()(config)
