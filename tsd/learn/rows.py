"""From trajectories to the rows of a batch. A path is a row; a large tree becomes several.

A row is a piece of a trie: whole steps, and before them those that they hang from, which are context only. Attention
costs the square of a row, so a tree in pieces is quicker than in one, though some of its steps are computed again.
Knows nothing about models or padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tsd.config import LossConfig
from tsd.learn.loss import group_advantages
from tsd.learn.targets import Array, Targets, targets
from tsd.types import FIRST, Trajectory


@dataclass(frozen=True, slots=True)
class Row:
    """Arrays over the row's tokens, the prompt aside, have shape [num_tokens]."""

    prompt: Array
    tokens: Array
    learned: Array
    """bool, False where a token is context for others."""
    sources: Array
    """int64, place in the row, prompt included, of the token before each one on its path."""
    positions: Array
    """int64, tokens before each one on its path, prompt included."""
    behaviour: Array
    """float32, behaviour logprobs."""
    versions: Array
    values: Array
    """float32, V of sampling time before each token."""
    targets: Targets

    @property
    def is_path(self) -> bool:
        """Whether every token follows the one before it."""
        first = len(self.prompt) - 1
        return bool((self.sources == np.arange(first, first + len(self.sources))).all())

    def __len__(self) -> int:
        """Tokens, the prompt's included."""
        return len(self.prompt) + len(self.tokens)


def lay_out(trajectories: Sequence[Trajectory], config: LossConfig, max_tokens: int) -> list[Row]:
    """Rows of at most `max_tokens`, longer only where a single step with what it hangs from is.

    Before a batch is shared out: a group's members must be seen together.
    """
    rewards, groups = [one.grade.reward for one in trajectories], [one.group for one in trajectories]
    advantages = group_advantages(rewards, groups).tolist()
    return [
        _row(one, steps, num_context, whole)
        for one, advantage in zip(trajectories, advantages, strict=True)
        for whole in [targets(one, advantage, config)]
        for steps, num_context in pieces(one, max_tokens)
    ]


def pieces(trajectory: Trajectory, max_tokens: int) -> Iterator[tuple[list[int], int]]:
    """The steps of each row, parents first, and how many at the start are context. Each step is learned in one row."""
    lengths, parents = trajectory.lengths.tolist(), trajectory.parents.tolist()
    if len(trajectory.prompt) + len(trajectory.tokens) <= max_tokens:
        yield list(range(len(lengths))), 0
        return
    new, held, size = list[int](), set[int](), len(trajectory.prompt)
    for i, length in enumerate(lengths):
        above = _missing(parents, i, held)
        cost = length + sum(lengths[step] for step in above)
        if new and size + cost > max_tokens:
            yield _piece(new, held)
            new, held, size = [], set(), len(trajectory.prompt)
            above = _missing(parents, i, held)
            cost = length + sum(lengths[step] for step in above)
        new.append(i)
        held |= {i, *above}
        size += cost
    yield _piece(new, held)


def _missing(parents: Sequence[int], step: int, held: set[int]) -> list[int]:
    """The steps above one that a row does not have yet."""
    above = []
    while (step := parents[step]) != FIRST and step not in held:
        above.append(step)
    return above


def _piece(new: list[int], held: set[int]) -> tuple[list[int], int]:
    context = sorted(held - set(new))
    return context + new, len(context)


def _row(trajectory: Trajectory, steps: list[int], num_context: int, whole: Targets) -> Row:
    lengths = trajectory.lengths[steps]
    starts = (np.cumsum(trajectory.lengths) - trajectory.lengths)[steps]
    places = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])
    sources, positions = _chain(trajectory, steps)
    cut = Targets(*(getattr(whole, name)[places] for name in Targets.__slots__))
    return Row(
        prompt=trajectory.prompt,
        tokens=trajectory.tokens[places],
        learned=np.repeat(np.arange(len(steps)) >= num_context, lengths),
        sources=sources,
        positions=positions,
        behaviour=trajectory.logprobs[places],
        versions=trajectory.versions[places],
        values=trajectory.values[places],
        targets=cut,
    )


def _chain(trajectory: Trajectory, steps: list[int]) -> tuple[Array, Array]:
    """Sources and positions of steps laid out after the prompt, one after the other."""
    num_prompt, lengths = len(trajectory.prompt), trajectory.lengths[steps]
    ends = np.cumsum(lengths)
    starts, num_tokens = ends - lengths, int(ends[-1])
    place = {step: i for i, step in enumerate(steps)}
    sources = np.arange(num_prompt - 1, num_prompt + num_tokens - 1)
    positions = np.empty(num_tokens, np.int64)
    for i, step in enumerate(steps):
        parent = int(trajectory.parents[step])
        before = num_prompt - 1  # the place of the last token before this step
        first = num_prompt
        if parent != FIRST:
            above = place[parent]
            before, first = num_prompt + int(ends[above]) - 1, int(positions[ends[above] - 1]) + 1
        sources[starts[i]] = before
        positions[starts[i] : ends[i]] = first + np.arange(lengths[i])
    return sources, positions
