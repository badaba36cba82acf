"""A reward model as one of the rewards: a Hugging Face sequence classifier, which reads a question and its response.

Scored are the responses of many trees together, in a thread, while the engine's call that finished them is still
awaited; the reward that training mixes then only looks the score up. Knows nothing about search.

    search -> Scored.expand -> engine -> finished responses -> RewardModel.read, a batch -> steps with known scores
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from tsd.model.files import model_path
from tsd.types import Engine, Expansion, Grade, Problem, Step, WeightUpdate

BATCH = 32
"""Responses that go through the model at once."""
KEPT = 20_000
"""Scores that are remembered: far more than there are between a response's end and its grade."""


class RewardModel:
    """The `Reward`. It lies in (-1, 1): the tanh of the model's one output, or 2p - 1 for its last label's chance p."""

    def __init__(self, path: str) -> None:
        """Raises ValueError for a directory that holds no sequence classifier, or one without its last layer."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from tsd.model.policy import own_device

        directory = str(model_path(path, "reward.model"))
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
            self.model, found = AutoModelForSequenceClassification.from_pretrained(
                directory, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"reward.model: cannot load {path}: {str(error).strip().splitlines()[0]}") from error
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"reward.model: {path} is no trained sequence classifier: it lacks {', '.join(missing)}")
        self.model.eval().to(own_device())
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self._scores: dict[tuple[str, str], float] = {}
        self._wanted: dict[tuple[str, str], str] = {}
        self._turn = asyncio.Lock()

    def __call__(self, problem: Problem, response: str, num_tokens: int, grade: Grade, /) -> float:
        return self._scores[problem.id, response]

    async def read(self, problem: Problem, question: str, responses: Sequence[str]) -> None:
        """Returns when the responses' scores are known. Whoever has the turn scores what all others wait for too."""
        self._wanted |= {(problem.id, one): question for one in responses if (problem.id, one) not in self._scores}
        async with self._turn:
            if any((problem.id, one) not in self._scores for one in responses):
                batch = dict(self._wanted)
                pairs = [(question, response) for (_, response), question in batch.items()]
                self._scores |= zip(batch, await asyncio.to_thread(self.score, pairs), strict=True)
                for key in batch:
                    del self._wanted[key]
                for key in list(self._scores)[: max(0, len(self._scores) - KEPT)]:
                    del self._scores[key]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One of each question with its response."""
        import torch

        scores: list[float] = []
        for first in range(0, len(pairs), BATCH):
            with torch.inference_mode():
                logits = self.model(**self._inputs(pairs[first : first + BATCH])).logits.float()
            worth = logits.tanh() if logits.shape[1] == 1 else 2 * logits.softmax(-1) - 1
            scores += worth[:, -1].tolist()
        return scores

    def _inputs(self, pairs: Sequence[tuple[str, str]]) -> Any:
        """As a chat where the tokenizer knows how."""
        texts: list[Any] = [list(pair) for pair in pairs]
        if chats := self.tokenizer.chat_template is not None:
            roles = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
            texts = [self.tokenizer.apply_chat_template(one, tokenize=False) for one in roles]
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt", add_special_tokens=not chats)
        return inputs.to(self.model.device)


class Scored:
    """The `Engine` of one problem's tree: responses that it finishes are read before it gives them out."""

    def __init__(
        self,
        engine: Engine,
        read: Callable[[Sequence[Sequence[int]]], Coroutine[None, None, None]],
        num_prompt_tokens: int,
    ) -> None:
        self._engine, self._read, self._start = engine, read, num_prompt_tokens

    @property
    def version(self) -> int:
        return self._engine.version

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        expansion = await self._engine.expand(state, num_samples, max_tokens, excluded)
        await self._look(state, [step for step in expansion.steps if step.finish == "end"])
        return expansion

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        steps = await self._engine.sample(state, num_samples, max_tokens)
        await self._look(state, steps)
        return steps

    async def _look(self, state: Sequence[int], steps: Sequence[Step]) -> None:
        if steps:
            await self._read([(*state[self._start :], *step.tokens) for step in steps])

    async def load(self, weights: WeightUpdate) -> float:
        return await self._engine.load(weights)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The engine is its owner's to end."""
