"""The seams between the parts: what an engine, a task and a text codec must offer."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from tsd.types import Expansion, Grade, Problem, Step, WeightUpdate

PromptStyle = Literal["chat", "compact", "digits"]
Split = Literal["train", "validation", "heldout"]


class Engine(Protocol):
    """Generates text from the current policy. Token ids in, token ids out; safe to call from many coroutines at once.

    A cancelled call stops its own generation and leaves every other one alone.
    """

    @property
    def version(self) -> int:
        """The version of the weights in use."""
        ...

    async def expand(
        self, state: Sequence[int], num_samples: int, max_tokens: int, excluded: Sequence[int] = ()
    ) -> Expansion:
        """`num_samples` steps from `state`, each ending at `</step>`, at the answer's end or EOS, or at `max_tokens`.

        None begins with an `excluded` token, unless the policy has no other; logprobs are the policy's all the same.

        Raises EngineError when the engine has died.
        """
        ...

    async def sample(self, state: Sequence[int], num_samples: int, max_tokens: int) -> tuple[Step, ...]:
        """As `expand`, but each sample runs on through `</step>` to the answer's end, EOS or `max_tokens`."""
        ...

    async def load(self, weights: WeightUpdate) -> float:
        """Use `weights` from the next engine step on. Requests under way go on with them; no request is lost.

        Returns for how many seconds generation stood still.

        Raises WeightsError when names or shapes are not this model's; the old weights then stay in use.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class CountsCacheHits(Protocol):
    """An engine that says how often a state's keys and values were still there."""

    @property
    def cache_hits(self) -> tuple[int, int]:
        """Hits, and lookups, since it started."""
        ...


class TextCodec(Protocol):
    """Text to token ids and back."""

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a task's prompt, chat template applied where the model has one."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens, tags included."""
        ...


class Task(Protocol):
    """A kind of problem. Reads its own problems and grades answers; knows nothing about models or search.

    Packages register what makes theirs of a `TaskConfig` under the entry-point group `tsd.tasks`.
    """

    @property
    def name(self) -> str: ...

    def parse(self, line: str) -> Problem:
        """A problem from one JSON line. Raises ValueError saying what is wrong with it."""
        ...

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        """The first `count` problems of a split, or all where it has fewer; a task may raise ValueError then.

        Splits share no problem, whatever the seed's order.
        """
        ...

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        """The question as the model is asked it."""
        ...

    def grade(self, problem: Problem, response: str) -> Grade:
        """Grades whatever a model wrote, in bounded time and without an exception."""
        ...


class Reward(Protocol):
    """One of the rewards that training mixes. Packages register theirs under the entry-point group `tsd.rewards`.

    Called in a generator's event loop for every finished response, so it should be quick. What it returns is clipped
    to [-1, 1]; where it raises, or returns what is no finite number, the response is worth -1 by it.
    """

    def __call__(self, problem: Problem, response: str, num_tokens: int, grade: Grade, /) -> float:
        """What a response of so many tokens is worth; `grade` is the task's own."""
        ...


class Grader(Protocol):
    """What a response of so many tokens is worth in training."""

    def __call__(self, problem: Problem, response: str, num_tokens: int, /) -> Grade: ...
