"""What the torch engine's decoder has in hand: requests, and their samples in groups. Changes nothing."""

from dataclasses import dataclass, field

from tsd.engine.grouped_kv import GROUP_SIZE
from tsd.engine.prefix_cache import Prefix
from tsd.types import Step


@dataclass(slots=True, eq=False)
class Request:
    """One call of `expand` or `sample`: `num_samples` samples from one state."""

    state: tuple[int, ...]
    num_samples: int
    max_tokens: int
    stops_at_step: bool
    excluded: tuple[int, ...] = ()
    """Tokens that no sample begins with."""
    steps: list[Step] = field(default_factory=list)
    value: float = 0.0
    cancelled: bool = False

    @property
    def done(self) -> bool:
        return len(self.steps) == self.num_samples


@dataclass(slots=True, eq=False)
class Group:
    """Up to GROUP_SIZE samples of one request."""

    request: Request
    size: int
    live: int = 0
    index: int = 0
    prefix: Prefix | None = None  # all of the state, or all but its last tokens, then `num_held` of them
    version: int = 0

    @property
    def state(self) -> tuple[int, ...]:
        return self.request.state

    @property
    def num_held(self) -> int:
        """How many tokens of the state `prefix` holds."""
        return len(self.prefix.tokens) if self.prefix else 0


@dataclass(slots=True, eq=False)
class Sample:
    """One sample under way."""

    group: Group
    number: int  # in its group
    slot: int  # where in its group the next token's keys and values go
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def groups_of(request: Request) -> list[Group]:
    """A request's samples, GROUP_SIZE and GROUP_SIZE."""
    firsts = range(0, request.num_samples, GROUP_SIZE)
    return [Group(request, min(GROUP_SIZE, request.num_samples - first)) for first in firsts]
