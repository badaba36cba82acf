"""What flows between the parts, in the order it flows: problem, step, expansion, trajectory, weights.

Knows nothing about how any of it is made, sent or learned from.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

Finish = Literal["step", "end", "length"]
"""Why a sampled step stopped: at `</step>`, at the end of the answer (or EOS), or at its token limit."""


class Problem(msgspec.Struct, frozen=True):
    """One problem. `text` is the task's own JSON line; only the task reads it."""

    id: str
    text: str


class Grade(msgspec.Struct, frozen=True):
    """What a task says of a finished answer."""

    reward: float
    """Training reward in [-1, 1]."""
    exact: bool
    """Whether the answer solves the problem: what mean@k averages."""
    well_formed: bool
    """Whether the answer could be read and obeys the rules."""


class Position(msgspec.Struct, frozen=True):
    """What a task reads in a response so far."""

    key: str | None = None
    """Equal for responses from which the same can follow, or which are the same answer; None where it cannot tell."""
    dead: bool = False
    """Whether nothing legal can follow any more."""


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


class Trajectory(msgspec.Struct, frozen=True):
    """One finished path, as the trainer learns from it. Arrays over the response have shape [num_tokens]."""

    id: str
    group: str
    """Trajectories of one group come from one problem in one policy's sitting (a tree, a set of samples)."""
    problem_id: str
    generator: int
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
    grade: Grade
    num_generated: int
    """Tokens generated in all for the group, divided over its trajectories: the cost of this one."""

    @property
    def version(self) -> int:
        """The oldest policy version in it."""
        return int(self.versions.min())


class WeightUpdate(msgspec.Struct, frozen=True):
    """A whole set of weights under one version. Names are the model's `state_dict` keys, `value_head.*` among them."""

    version: int
    tensors: dict[str, np.ndarray]
