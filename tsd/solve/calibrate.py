"""A model's calibration for search by index, made by sampling the model.

Knows nothing about training; generators keep a calibration up while the policy moves.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tsd.config import Config
from tsd.engine import Generation
from tsd.search import Calibration
from tsd.search.calibration import load_calibration, strength_of
from tsd.search.harvest import NO_END
from tsd.types import Engine, Grade, Problem, Task

NUM_PROBLEMS, NUM_SAMPLES = 250, 32
"""How many problems of the training set are sampled, and how often each."""
NUM_IN_FLIGHT = 16


async def calibrate(
    generation: Generation, task: Task, config: Config, num_problems: int = NUM_PROBLEMS
) -> Calibration:
    """From whole paths of an engine that has been entered, sampled step by step: 32 of each problem."""
    problems = list(task.problems("train", num_problems, config.seed))
    calibration, num_solved = Calibration(), list[int]()
    waiting = iter(problems)

    async def worker() -> None:
        for problem in waiting:
            paths = [_path(generation, task, config, problem) for _ in range(NUM_SAMPLES)]
            found = await asyncio.gather(*paths)
            num_solved.append(sum(grade.exact for *_, grade in found))
            for values, lengths, grade in found:
                calibration.add(values, lengths, grade.reward, grade.exact, fades=False)

    async with asyncio.TaskGroup() as group:
        for number in range(NUM_IN_FLIGHT):
            group.create_task(worker(), name=f"calibrate {number}")
    calibration.strength = strength_of(num_solved, NUM_SAMPLES)
    return calibration


async def known_or_made(generation: Generation, task: Task, config: Config, directory: Path | None) -> Calibration:
    """The one beside a model's weights; a new one where there is none, or problems are not those it was made of."""
    known = load_calibration(directory)
    return known if known.states and not config.task.rare else await calibrate(generation, task, config)


async def _path(
    generation: Generation, task: Task, config: Config, problem: Problem
) -> tuple[Sequence[float], Sequence[int], Grade]:
    """One path of the policy: V after each of its steps, their lengths, and what it is worth."""
    prompt, search = generation.codec.encode(task.prompt(problem, config.task.style)), config.search
    engine: Engine = generation.engine
    response: tuple[int, ...] = ()
    values, lengths = list[float](), list[int]()
    while (room := search.max_path_tokens - len(response)) > 0:
        expansion = await engine.expand(prompt + response, 1, min(room, search.max_step_tokens))
        step = expansion.steps[0]
        response += step.tokens
        values.append(step.values[-1])
        lengths.append(len(step.tokens))
        if step.finish == "end":
            return values, lengths, task.grade(problem, generation.codec.decode(response))
        if step.finish == "length":
            break
    return values, lengths, NO_END
