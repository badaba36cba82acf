"""An engine whose answers are known, evaluated."""

from collections.abc import Sequence

from tests.support.fakes import ScriptedEngine, step
from tsd.config import Config, load_config
from tsd.engine import Generation
from tsd.engine.mock import CharCodec, MockEngine
from tsd.solve.evaluate import Evaluation, evaluate
from tsd.tasks.countdown import Countdown, make_problem
from tsd.types import Expansion, Problem, Step

PROBLEMS = [make_problem((2, 3), 6), make_problem((3, 2), 6), make_problem((2, 3), 600)]


EXACT, NEAR, ILLEGAL = "<answer>2*3</answer>", "<answer>2+3</answer>", "2*3"
ANSWERS = {
    "2 3=6:": [EXACT, EXACT, EXACT, EXACT],
    "3 2=6:": [EXACT, NEAR, NEAR, ILLEGAL],
    "2 3=600:": [ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL],
}


class AnsweringEngine(ScriptedEngine):
    """Answers `sample` from a table."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        super().__init__(lambda state: Expansion(0.0, ()))
        self.answers = answers
        self.asked: list[tuple[int, int]] = []

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        self.asked.append((num_samples, max_tokens))
        texts = self.answers[CharCodec().decode(state)]
        return tuple(step(*map(ord, text), finish="end") for text in texts)


def configured(*settings: str) -> Config:
    return load_config(None, ["engine.kind=mock", "evaluate.k=4", *settings])


async def measure(engine: ScriptedEngine | MockEngine, problems: Sequence[Problem], config: Config) -> Evaluation:
    return await evaluate(Generation(engine, CharCodec()), Countdown(), problems, config, lambda *_: None)
