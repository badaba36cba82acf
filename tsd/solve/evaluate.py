"""mean@k and pass@k: samples of the policy alone, no search, graded 0/1 on problems never trained on.

`python -m tsd.solve.evaluate RUN_DIR --when before|during|after` is how `tsd launch` runs it. Knows nothing about
training.
"""

import argparse
import asyncio
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from tsd.config import Config, load_config
from tsd.config.whole import write_whole
from tsd.engine import Generation, make_engine
from tsd.learn.checkpoint import load_state
from tsd.learn.validation import Record, chosen_checkpoint, settle
from tsd.model.files import model_path
from tsd.observe.metrics import EvaluationRow, MetricsWriter
from tsd.observe.tensorboard import open_tensorboard
from tsd.run.child import beat, run_child
from tsd.tasks import make_task
from tsd.tasks.splits import problems_of_run
from tsd.types import Engine, Grade, Problem, Step, Task

GREEDY = 1e-4
"""A temperature so low that the likeliest token is always drawn: engines divide by it."""
NUM_IN_FLIGHT = 64
"""Problems sampled at once: enough to fill the engine, few enough that progress is steady."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found."""

    mean_at_k: float
    """Share of samples that are exact, averaged over problems."""
    pass_at_k: float
    """Share of problems with at least one exact sample."""
    ci95: tuple[float, float]
    """Normal 95% interval of mean_at_k over problems."""
    format_rate: float
    """Share of samples that are legal answers, right or wrong."""
    mean_reward: float
    k: int
    num_problems: int
    generated_tokens: int
    temperature: float
    top_p: float = 1.0
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """One problem's k samples, each with its grade."""

    problem: Problem
    prompt: tuple[int, ...]
    steps: tuple[Step, ...]
    grades: tuple[Grade, ...]

    @property
    def exact(self) -> float:
        """Share of them that solve it."""
        return sum(grade.exact for grade in self.grades) / len(self.grades)


def interval(means: Sequence[float]) -> tuple[float, float]:
    """Normal 95% interval of the mean over problems; the whole of [0, 1] for fewer than two."""
    if len(means) < 2:
        return 0.0, 1.0
    half = 1.96 * statistics.stdev(means) / math.sqrt(len(means))
    return max(0.0, statistics.fmean(means) - half), min(1.0, statistics.fmean(means) + half)


async def evaluate(
    generation: Generation,
    task: Task,
    problems: Sequence[Problem],
    config: Config,
    progress: Callable[[int, float, tuple[float, float]], None],
) -> Evaluation:
    """Samples and grades, and sums it up; `progress` gets (problems done, mean, interval)."""
    started, answered, means = time.monotonic(), list[Answered](), list[float]()

    def note(one: Answered) -> None:
        answered.append(one)
        means.append(one.exact)
        progress(len(answered), statistics.fmean(means), interval(means))

    await answer(generation, task, problems, config, note)
    return _summary(answered, config, time.monotonic() - started)


async def answer(
    generation: Generation, task: Task, problems: Sequence[Problem], config: Config, note: Callable[[Answered], None]
) -> None:
    """k samples of each problem, told one problem at a time. Starts the engine and ends it."""
    waiting = iter(problems)

    async def worker(engine: Engine) -> None:
        for problem in waiting:
            prompt = generation.codec.encode(task.prompt(problem, config.task.style))
            room = min(config.search.max_path_tokens, config.engine.max_model_tokens - len(prompt))
            steps = await engine.sample(prompt, config.evaluate.k, room)
            grades = tuple(task.grade(problem, generation.codec.decode(step.tokens)) for step in steps)
            note(Answered(problem, prompt, steps, grades))

    async with generation.engine as engine, asyncio.TaskGroup() as group:
        for number in range(NUM_IN_FLIGHT):
            group.create_task(worker(engine), name=f"evaluate {number}")


def _summary(answered: Sequence[Answered], config: Config, seconds: float) -> Evaluation:
    means = [one.exact for one in answered]
    grades = [grade for one in answered for grade in one.grades]
    return Evaluation(
        mean_at_k=statistics.fmean(means),
        pass_at_k=statistics.fmean(mean > 0 for mean in means),
        ci95=interval(means),
        format_rate=statistics.fmean(grade.well_formed for grade in grades),
        mean_reward=statistics.fmean(grade.reward for grade in grades),
        k=config.evaluate.k,
        num_problems=len(answered),
        generated_tokens=sum(len(step.tokens) for one in answered for step in one.steps),
        temperature=config.evaluate.temperature,
        top_p=config.evaluate.top_p,
        seconds=round(seconds, 2),
    )


def evaluation_engine(config: Config, directory: Path | None) -> Generation:
    """The configured engine, sampling as evaluations do."""
    asked = config.evaluate
    temperature = max(GREEDY, asked.temperature)
    return make_engine(config, directory, temperature=temperature, seed=config.seed, top_p=asked.top_p)


async def evaluate_run(run_dir: Path, when: Literal["before", "during", "after"], checkpoint: Path | None) -> None:
    """A run's evaluation: of what it starts from, of a checkpoint, or of what came of it.

    Before and after training it is written to `before.json` and `after.json`; during training the checkpoint is told.
    """
    config = load_config(run_dir / "config.toml")
    if when == "after":
        checkpoint = chosen_checkpoint(run_dir, config.train.keep_best)
    update, directory = load_state(checkpoint).update if checkpoint else 0, checkpoint
    if directory is None and config.engine.kind != "mock":
        directory = model_path(config.model.path)
    task, asked = make_task(config.task), config.evaluate
    problems = problems_of_run(task, "validation" if when == "during" else "heldout", config)
    with (
        open_tensorboard(run_dir, config.observe, update, hides=False) as board,
        MetricsWriter(run_dir, board) as metrics,
    ):

        def progress(num_done: int, mean: float, ci95: tuple[float, float]) -> None:
            if num_done == len(problems) or (num_done % 20 == 0 and when != "during"):
                metrics.write(
                    EvaluationRow(
                        when=when,
                        update=update if when == "during" else None,
                        num_done=num_done,
                        num_problems=len(problems),
                        k=asked.k,
                        mean_at_k=mean,
                        ci95=ci95,
                    )
                )

        engine = evaluation_engine(config, directory)
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(beat(run_dir, f"evaluate-{when}"), name="beat")
            result = await evaluate(engine, task, problems, config, progress)
            beating.cancel()
    if when == "during":
        assert checkpoint is not None, "a validation is of a checkpoint"
        record = Record(update=update, mean_at_k=result.mean_at_k, k=asked.k, num_problems=len(problems))
        return settle(run_dir, checkpoint, record, config.train)
    write_whole(run_dir / f"{when}.json", msgspec.json.format(msgspec.json.encode(result), indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tsd.solve.evaluate")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--when", choices=("before", "during", "after"), required=True)
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    return run_child(evaluate_run(args.run_dir, args.when, args.checkpoint))


if __name__ == "__main__":
    sys.exit(main())
