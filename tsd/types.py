"""What flows between the parts, in the order it flows: problem, step, expansion, trajectory, weights.

Knows nothing about how any of it is made, sent or learned from.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

FIRST = -1
"""In place of a step's parent: it follows the prompt."""

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
    """Of an end its reward."""
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
    """Tokens."""
    max_tokens: int
    num_nodes: int
    solved: bool
    steps: tuple[GlanceStep, ...]
    """Each followed by those below it."""


class Trajectory(msgspec.Struct, frozen=True):
    """What the trainer learns from: one finished path, or a whole tree, whose shared beginnings are there once.

    Its steps come parents first, their tokens one after the other: arrays over tokens have shape [num_tokens], those
    over steps [num_steps]. A path is steps of which each follows the one before.
    """

    sender: str
    """One life of one generator."""
    serial: int
    """Counts what the sender has sent, from 0."""
    group: str
    """Trajectories of one group come from one problem in one policy's sitting (a tree, a set of samples)."""
    problem_id: str
    generator: int
    position: int
    """Of its problem in the generator's stream of problems."""
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
    """int32 [num_steps], the step each one follows, FIRST where that is the prompt"""
    visits: np.ndarray
    """int32 [num_steps], simulations that passed"""
    q: np.ndarray
    """float32 [num_steps], what search makes of the state after the step: Q, or of an end its reward"""
    grade: Grade
    """Of its best end."""
    num_generated: int
    """Tokens generated in all for the group, divided over its trajectories: the cost of this one."""

    @property
    def id(self) -> str:
        """No two have the same."""
        return f"{self.sender}-{self.serial}"

    @property
    def version(self) -> int:
        """The oldest policy version in it."""
        return int(self.versions.min())


class WeightUpdate(msgspec.Struct, frozen=True):
    """A whole set of weights under one version. Names are the model's `state_dict` keys, `value_head.*` among them."""

    version: int
    tensors: dict[str, np.ndarray]
    """float32, or uint16 that hold bfloat16's bits."""
