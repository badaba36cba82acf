"""What `tsd eval`, `bench-search`, `soak`, `warmstart` and `data` do: reads and checks their input, shows how it goes.

Imported by a command when it runs. Knows nothing about option parsing or about runs.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar, get_args

import msgspec
import uvloop
from rich.console import Console
from rich.progress import Progress

from tsd.config import Config, load_config
from tsd.doctor.audit import Audit
from tsd.doctor.soak import soak
from tsd.doctor.soak_nodes import soak_nodes
from tsd.engine import engine_model, make_engine
from tsd.errors import leaves
from tsd.model.files import model_path
from tsd.model.hub import fetched
from tsd.observe.printable import printable
from tsd.search import Calibration
from tsd.search.calibration import FILE, load_calibration, save_calibration
from tsd.solve import Measurement, Solving, bench_search, compare_solving
from tsd.solve.calibrate import calibrate
from tsd.solve.evaluate import Evaluation, evaluate, evaluation_engine
from tsd.solve.solve import Solution, make_solver, read_tree
from tsd.solve.solving import BUDGET, GIVE_UP
from tsd.tasks import make_task
from tsd.tasks.lines import read_lines
from tsd.types import Problem, Split, Task

T = TypeVar("T")
ShowProgress = Callable[[int, float, tuple[float, float]], None]

NUM_LINES = 10
"""Lines of progress where there is no terminal."""


def setting(key: str, value: object) -> str:
    """An option as the `--set` it stands for; text is quoted, so that a directory named 7 stays text."""
    return f"{key}={msgspec.json.encode(value).decode()}"


def as_json(result: object) -> str:
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode()


def evaluate_file(settings: Sequence[str], data: Path, limit: int | None, console: Console) -> Evaluation:
    """`tsd eval`. Raises ValueError for a model, a file or a setting that cannot be; `console` shows progress."""
    config = _styled(settings)
    task, directory = make_task(config.task), engine_model(config)
    problems = read_problems(task, data, limit)
    with _progress(console, len(problems), config.evaluate.k) as progress:
        return _run(evaluate(evaluation_engine(config, directory), task, problems, config, progress))


def compare_on_file(settings: Sequence[str], data: Path, limit: int | None) -> list[Solving]:
    """`tsd eval --search`. Raises ValueError for a model, a file or a setting that cannot be."""
    own = {"method.max_tokens": BUDGET, "method.solutions": 1, "method.give_up": GIVE_UP}
    config = _styled([*(setting(key, value) for key, value in own.items()), *settings])
    task, directory = make_task(config.task), engine_model(config)
    problems, calibration = read_problems(task, data, limit), load_calibration(directory)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)

    async def compared() -> list[Solving]:
        async with generation.engine:
            return await compare_solving(generation, task, problems, config, calibration)

    return _run(compared())


def read_problems(task: Task, path: Path, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a JSONL file. Raises ValueError naming the file and the line."""
    problems = list(islice(read_lines(path, task.parse), limit))
    if not problems:
        raise ValueError(f"{path}: no problem in it; expected one JSON object a line")
    return problems


def _style(directory: Path) -> str:
    """How a model is asked: as a chat where its tokenizer knows how."""
    from tsd.model.text import HfCodec

    return "compact" if HfCodec(directory).tokenizer.chat_template is None else "chat"


@contextmanager
def _progress(console: Console, total: int, k: int) -> Iterator[ShowProgress]:
    """A bar on a terminal, a few lines elsewhere."""
    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            row = bar.add_task(f"mean@{k}", total=total)

            def advance(num_done: int, mean: float, ci95: tuple[float, float]) -> None:
                bar.update(row, completed=num_done, description=f"mean@{k} {_share_with(ci95, mean)}")

            yield advance
    else:

        def line(num_done: int, mean: float, ci95: tuple[float, float]) -> None:
            if num_done * NUM_LINES // total > (num_done - 1) * NUM_LINES // total:
                console.print(f"{num_done}/{total} problems  mean@{k} {_share_with(ci95, mean)}", soft_wrap=True)

        yield line


def describe(result: Evaluation) -> str:
    """An evaluation for people."""
    k, problems = result.k, result.num_problems
    return "\n".join(
        (
            f"mean@{k}        {_share_with(result.ci95, result.mean_at_k)}, 95% over {problems} problems",
            f"pass@{k}        {result.pass_at_k:.1%}",
            f"legal answers  {result.format_rate:.1%}",
            f"mean reward    {result.mean_reward:.3f}",
            f"temperature    {result.temperature:g}{f', top-p {result.top_p:g}' if result.top_p < 1 else ''}",
            f"generated      {result.generated_tokens:,} tokens in {result.seconds:.1f} s",
        )
    )


def _share_with(ci95: Sequence[float], mean: float) -> str:
    return f"{mean:.1%} ({ci95[0]:.1%} to {ci95[1]:.1%})"


def measure_search(settings: Sequence[str], agents: str, trees: str, problems: int = 0) -> list[Measurement]:
    """`tsd bench-search`. Raises ValueError for lists that are none."""
    config = fetched(load_config(None, settings))
    return _run(bench_search(config, counts("--agents", agents), counts("--trees", trees), problems))


def counts(option: str, text: str) -> tuple[int, ...]:
    """`1,16` as numbers. Raises ValueError naming the option."""
    items = [item.strip() for item in text.split(",")]
    if not all(item.isascii() and item.isdigit() and int(item) > 0 for item in items):
        raise ValueError(f"{option} {text!r}: expected a number from 1 up, or several with commas, such as 1,16")
    return tuple(map(int, items))


def solve_problem(settings: Sequence[str], text: str, tree: Path | None, resume: Path | None) -> Solution:
    """`tsd solve`, and the tree written where it is wanted. Raises ValueError for what cannot be read or written."""
    solver = make_solver(_styled(settings))
    problem, grown = solver.begin(text, read_tree(resume) if resume else None)

    async def solved() -> Solution:
        async with solver.generation.engine:
            return await solver.solve(problem, grown)

    solution = _run(solved())
    if tree:
        tree.write_bytes(msgspec.json.format(msgspec.json.encode(solver.record(grown)), indent=1))
    return solution


def serve_model(settings: Sequence[str], port: int, say: Callable[[str], None]) -> None:
    """`tsd serve`, until Ctrl-C. Raises ValueError for a model or a port that cannot be."""
    from tsd.solve.serve import serve

    _run(serve(make_solver(_styled(settings)), port, say))


def _styled(settings: Sequence[str]) -> Config:
    """Settings over the style that the model is asked in."""
    config = fetched(load_config(None, settings))
    if not config.engine.needs_model:
        return config
    style, model = _style(model_path(config.model.path)), setting("model.path", config.model.path)
    return load_config(None, [setting("task.style", style), *settings, model])


def describe_solution(solution: Solution) -> str:
    """A solution for people."""
    verdict = "solved" if solution.grade.exact else f"not solved, reward {solution.grade.reward:.2f}"
    return "\n".join(
        (
            *(printable(step, keep="\n") for step in solution.steps),
            f"{verdict}; search ended by: {solution.ended_by}; {solution.num_simulations} simulations, "
            f"{solution.num_nodes} nodes, {solution.generated_tokens:,} tokens",
        )
    )


def torment(
    run_dir: Path, settings: Sequence[str], minutes: float, seed: int, cluster: str, report: Callable[[str], None]
) -> Audit:
    """`tsd soak`. Raises ValueError for settings that cannot be, TsdError where the run ends or hangs under it."""
    if cluster:
        return _run(soak_nodes(run_dir, settings, minutes, seed, cluster, report))
    return _run(soak(run_dir, settings, minutes, seed, report))


def describe_audit(found: Audit) -> str:
    """An audit for people."""
    faults = ", ".join(f"{count} {kind}" for kind, count in found.faults.items())
    return "\n".join(
        (
            f"{sum(found.faults.values())} faults in {found.seconds:.0f} s, seed {found.seed}: {faults}",
            f"{found.num_updates} updates, {found.num_syncs} weights applied, {found.num_restarts} restarts"
            f"{_comeback(found)}",
            f"books: {found.books.describe()}",
            f"lost {found.num_lost}, used twice {found.num_used_twice}, wrong weights {found.num_wrong_weights}, "
            f"weights nobody can confirm {found.num_unconfirmed_weights}, hangs {found.num_hangs}, "
            f"left over {len(found.leftovers)} {' '.join(found.leftovers)}",
            "clean" if found.is_clean else "NOT clean",
        )
    )


def _comeback(found: Audit) -> str:
    if found.back_s is None:
        return ""
    return f"; a dead generator is learned from again after {found.back_s} s, {found.updates_meanwhile} updates later"


def make_tiny_model(
    directory: Path, num_steps: int | None, num_layers: int, width: int, *, seed: int, num_threads: int
) -> Iterator[str]:
    """`tsd warmstart`: lines of progress. Raises ValueError for a width that heads cannot share, or a place in use."""
    if width % 8:
        raise ValueError(f"--width: expected a multiple of 8, four heads of even width, found {width}")
    from tsd.trainer.warmstart import WarmstartConfig, warmstart

    config = WarmstartConfig(num_layers=num_layers, hidden_size=width, seed=seed, num_threads=num_threads)
    if num_steps is not None:
        config = msgspec.structs.replace(config, num_steps=num_steps)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"--out {directory}: there is something already; name a new directory")
    yield from warmstart(directory, config)


def calibrate_model(settings: Sequence[str], num_problems: int) -> str:
    """`tsd calibrate`: what it found, for people. Raises ValueError for a model or a setting that cannot be."""
    config = _styled(settings)
    directory = model_path(config.model.path)
    generation = make_engine(config, directory, temperature=config.engine.temperature, seed=config.seed)

    async def calibrated() -> Calibration:
        async with generation.engine:
            return await calibrate(generation, make_task(config.task), config, num_problems)

    found = _run(calibrated())
    save_calibration(found, directory / FILE)
    explained = ", ".join(f"{max(0.0, share):.1%}" for share in found.explained) or "nothing yet: too few paths"
    return (
        f"{found.paths.num_paths:,.0f} paths, {found.solve_rate:.1%} of them right, of {found.path_tokens:.0f} tokens; "
        f"V explains of their rewards, after each step: {explained}"
    )


def write_problems(
    directory: Path, settings: Sequence[str], sizes: Mapping[str, int], *, seed: int, force: bool
) -> Iterator[str]:
    """`tsd data`: a line on each file written. Raises ValueError, with nothing written, for what cannot be."""
    paths: dict[Split, Path] = {split: directory / f"{split}.jsonl" for split in get_args(Split)}
    if not force and (there := [str(path) for path in paths.values() if path.exists()]):
        raise ValueError(f"{', '.join(there)} exist already; --force overwrites")
    task = make_task(load_config(None, settings).task)
    problems = {split: list(task.problems(split, sizes[split], seed)) for split in paths}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot make {directory}: {error.strerror}") from None
    for split, path in paths.items():
        path.write_text("".join(f"{problem.text}\n" for problem in problems[split]), encoding="utf-8")
        yield f"{path}: {len(problems[split]):,} problems"


def _run(work: Coroutine[None, None, T]) -> T:
    """On uvloop, as generators do. Of a group's errors the first is raised: the others follow from it."""
    try:
        result: T = uvloop.run(work)
        return result
    except BaseExceptionGroup as group:
        raise leaves(group)[0] from None
