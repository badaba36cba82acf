"""What flows between the parts, in the order it flows: problem, step, expansion, trajectory, weights. Then the seams:
what an engine, a task, a text codec and a reward must offer.

Knows nothing about how any of it is made, sent or learned from.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Annotated, Literal, Protocol, Self, runtime_checkable

import msgspec
import numpy as np

NO_PARENT = -1
"""In place of a parent's index: of a step that follows the prompt, a tree's root, or a row's first token."""

NOT_SENT = -1
"""In place of the serial of a trajectory that no outbox has had yet."""

Finish = Literal["step", "end", "length"]
"""Why a sampled step stopped: at `</step>`, at the end of the answer (or EOS), or at its token limit."""


class Problem(msgspec.Struct, frozen=True):
    """One problem. `text` is the task's own JSON line; only the task reads it."""

    id: str
    text: str


class Grade(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a task says of a finished answer."""

    reward: float
    """Training reward in [-1, 1]."""
    exact: bool
    """Whether the answer solves the problem: what mean@k averages."""
    well_formed: bool
    """Whether the answer could be read and obeys the rules."""
    parts: dict[str, float] = {}
    """Where `reward` is mixed of several: each on its own, by name, in [-1, 1]."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """One sampled continuation. `tokens`, `logprobs` and `values` have the same length.

    Trees hold many: engines give `array("f")` for the floats, an eighth of a tuple's memory.
    """

    tokens: tuple[int, ...]
    logprobs: Sequence[float]
    """Behaviour logprobs: of each token, at the sampling temperature, when it was sampled."""
    values: Sequence[float]
    """The value head's V of the state before each token."""
    finish: Finish
    version: int
    """The policy version that sampled it."""


class Expansion(msgspec.Struct, frozen=True, gc=False):
    """The answer to one engine call: samples from one state, and that state's value."""

    value: float
    steps: tuple[Step, ...]


class GlanceStep(msgspec.Struct, frozen=True):
    """One step of a tree, shown."""

    depth: int
    """1 at the root's children."""
    text: str
    visits: int
    q: float
    """Mean value, or an end's reward."""
    on_path: bool
    """Whether it is one of the most visited path."""
    solved: bool = False


class Glance(msgspec.Struct, frozen=True):
    """One tree while it grows, for people who watch."""

    prompt: str
    num_simulations: int
    max_simulations: int
    """0 where there is no such limit, as below."""
    num_generated: int
    """Tokens generated so far."""
    max_tokens: int
    num_nodes: int
    solved: bool
    steps: tuple[GlanceStep, ...]
    """Each followed by those below it."""


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """What the trainer learns from: one finished path, or a whole tree, whose shared beginnings are there once.

    Its steps come parents first, their tokens one after the other: arrays over tokens have shape [num_tokens], those
    over steps [num_steps]. A path is steps of which each follows the one before. Search gives all but the first six
    fields: the generator adds whose it is, and its outbox who sends it.
    """

    sender: str = ""
    """One life of one generator."""
    serial: int = NOT_SENT
    """Counts what the sender has sent, from 0."""
    group: str = ""
    """Trajectories of one group come from one problem in one policy's sitting (a tree, a set of samples)."""
    problem_id: str = ""
    generator: int = 0
    position: int = 0
    """Its problem's place in the generator's stream of problems."""
    prompt: np.ndarray
    """int32 [num_prompt_tokens]"""
    tokens: np.ndarray
    """int32 [num_tokens]"""
    logprobs: np.ndarray
    """float32 [num_tokens], behaviour logprobs"""
    values: np.ndarray
    """float32 [num_tokens], V of the state before each token, as the engine gave it"""
    versions: np.ndarray
    """int32 [num_tokens], the policy version that sampled each token"""
    lengths: np.ndarray
    """int32 [num_steps], tokens of each step"""
    parents: np.ndarray
    """int32 [num_steps], the step each one follows, NO_PARENT where that is the prompt"""
    visits: np.ndarray
    """int32 [num_steps], simulations that passed"""
    q: np.ndarray
    """float32 [num_steps], what search makes of the state after the step: Q, or of an end its reward"""
    grade: Grade
    """The grade of its best end."""
    num_generated: int
    """Tokens generated in all for the group, divided over its trajectories: the cost of this one."""

    @property
    def id(self) -> str:
        """No two have the same."""
        return f"{self.sender}-{self.serial}"

    @property
    def steps(self) -> list[list[int]]:
        """The tokens of each step."""
        return [step.tolist() for step in np.split(self.tokens, self.lengths.cumsum()[:-1])]

    @property
    def version(self) -> int:
        """The oldest policy version in it."""
        return int(self.versions.min())


def figure(title: str, form: str, worst: Literal["lowest", "highest", ""] = "") -> msgspec.Meta:
    """How a number of an update is shown: its title, its format, and which of its values is the worst."""
    return msgspec.Meta(extra={"title": title, "form": form, "worst": worst})


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What an update was like: means over the sampled tokens of its whole batch, before its step.

    A figure of an update is declared here, or in `UpdateRow`, and nowhere else: rows, reports, curves and dashboards
    take its name, its meaning and its `figure` from here.
    """

    loss: float
    """What was minimised: the weighted sum of the terms of [loss]."""
    policy_loss: Annotated[float, figure("policy loss", ".3g")]
    """PPO's or CISPO's."""
    value_loss: Annotated[float, figure("value loss", ".3g")]
    """The value head's against R, in squared reward."""
    kl: Annotated[float, figure("KL from the start, nats a token", ".3g", "highest")]
    """Divergence of the policy from the one it started as, nats a token."""
    entropy: Annotated[float, figure("entropy, nats a token", ".3f")]
    """The policy's, nats a token."""
    grad_norm: Annotated[float, figure("gradient norm", ".3g", "highest")]
    """L2 norm of the gradient below the value head, before it is scaled down to train.max_grad_norm."""
    ratio_mean: float
    """Mean of policy / behaviour."""
    ratio_quantiles: tuple[float, ...] = ()
    """Policy / behaviour at 1%, 50% and 99%, over rank 0's tokens."""
    effective_sample_share: Annotated[float, figure("effective sample share", ".3f", "lowest")] = 1.0
    """(sum r)^2 / (n sum r^2) of the ratios: 1 on policy, near 0 where a few tokens carry the update."""
    explained_variance: Annotated[float | None, figure("explained variance", ".3f", "lowest")] = None
    """1 - Var(R - V) / Var(R) of the value head; None where all rewards were equal."""
    logprob_gap: Annotated[float | None, figure("logprob gap, nats", ".2g", "highest")] = None
    """Mean |trainer - engine| logprob at the same weights, in nats, as last measured; None before the first time."""
    num_tokens_computed: int = 0
    """Tokens that went through the model in this update, prompts included: what trajectories share once."""


class WeightUpdate(msgspec.Struct, frozen=True):
    """A whole set of weights under one version. Names are the model's `state_dict` keys, `value_head.*` among them."""

    version: int
    tensors: dict[str, np.ndarray]
    """float32, or uint16 that hold bfloat16's bits."""
    path: str = ""
    """A safetensors file of the same tensors, where there is one, for engines in other processes."""


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
    to [-1, 1]; where it raises, or returns what is no finite number, the response is worth -1 by it. One that takes
    longer than task.grade_timeout_s ends the run.
    """

    def __call__(self, problem: Problem, response: str, num_tokens: int, grade: Grade, /) -> float:
        """What a response of so many tokens is worth; `grade` is the task's own."""
        ...


class Grader(Protocol):
    """What a response of so many tokens is worth in training."""

    def __call__(self, problem: Problem, response: str, num_tokens: int, /) -> Grade: ...
