"""From trajectories to the rows of a batch: what a group's trajectories or a tree's branches share is there once.

Every group becomes a trie of tokens. Rows are its pieces: a piece in depth-first order, and before it the tokens it
hangs from, which are context alone. Attention costs the square of a row, so a large trie in pieces is quicker than in
one, though some of it is computed again; a single path is never cut. What is learned stays what it was: every sampled
token is an entry of its own, with the place of the token it follows. Knows nothing about models or padding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tsd.methods.targets import Array, Targets
from tsd.types import NO_PARENT, Trajectory


@dataclass(frozen=True, slots=True)
class Row:
    """T tokens that go through the model, and the L sampled ones that they predict."""

    tokens: Array
    """int64 [T]"""
    parents: Array
    """int64 [T], place of the token before each one on its path, NO_PARENT at the first."""
    positions: Array
    """int64 [T], tokens before each one on its path."""
    sources: Array
    """int64 [L], place of the token that predicts each sampled one."""
    sampled: Array
    """int64 [L]"""
    behaviour: Array
    """float32 [L], behaviour logprobs."""
    versions: Array
    """[L], of the policy that sampled it."""
    targets: Targets
    """Each [L]."""

    @property
    def is_path(self) -> bool:
        """Whether every token follows the one before it."""
        return bool((self.parents == np.arange(NO_PARENT, len(self.parents) + NO_PARENT)).all())

    def __len__(self) -> int:
        """Tokens that go through the model."""
        return len(self.tokens)


def lay_out(
    trajectories: Sequence[Trajectory], targets: Callable[[Sequence[Trajectory]], list[Targets]], max_tokens: int
) -> list[Row]:
    """Rows of `max_tokens` tokens at most; where a path is longer, of as many as that. `targets` takes a group.

    Before a batch is shared out: a group's members must be seen together.
    """
    groups: dict[tuple[str, bytes], list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault((trajectory.group, trajectory.prompt.tobytes()), []).append(trajectory)
    rows: list[Row] = []
    for members in groups.values():
        trie = Trie(members[0].prompt)
        for trajectory, wanted in zip(members, targets(members), strict=True):
            trie.add(trajectory, wanted)
        rows += trie.rows(max_tokens)
    return rows


class Trie:
    """Trajectories of one prompt, token by token. The last token of a branch predicts nothing and is left out."""

    def __init__(self, prompt: Array) -> None:
        self.tokens: list[int] = prompt.tolist()
        self.parents = list(range(NO_PARENT, len(prompt) + NO_PARENT))
        self.depths = list(range(len(prompt)))
        self.children: dict[tuple[int, int], int] = {}
        self.sources: list[int] = []
        self.root = len(prompt) - 1
        self.members: list[tuple[Trajectory, Targets]] = []

    def add(self, trajectory: Trajectory, wanted: Targets) -> None:
        """Entries in the order of the trajectory's tokens; tokens as far as they are new."""
        followed, ends, at = set(trajectory.parents.tolist()), list[int](), 0
        tokens = trajectory.tokens.tolist()
        for i, (length, parent) in enumerate(
            zip(trajectory.lengths.tolist(), trajectory.parents.tolist(), strict=True)
        ):
            place = self.root if parent == NO_PARENT else ends[parent]
            for token in tokens[at : at + length - 1]:
                self.sources.append(place)
                place = self._child(place, token)
            self.sources.append(place)
            ends.append(self._child(place, tokens[at + length - 1]) if i in followed else place)
            at += length
        self.members.append((trajectory, wanted))

    def _child(self, place: int, token: int) -> int:
        found = self.children.setdefault((place, token), len(self.tokens))
        if found == len(self.tokens):
            self.tokens.append(token)
            self.parents.append(place)
            self.depths.append(self.depths[place] + 1)
        return found

    def rows(self, max_tokens: int) -> Iterator[Row]:
        """Each sampled token in one row."""
        sources, tokens, parents = np.array(self.sources), np.array(self.tokens), np.array(self.parents)
        depths = np.array(self.depths)
        entries = {
            "sampled": np.concatenate([one.tokens for one, _ in self.members]).astype(np.int64),
            "behaviour": np.concatenate([one.logprobs for one, _ in self.members]),
            "versions": np.concatenate([one.versions for one, _ in self.members]),
        }
        wanted = {name: np.concatenate([getattr(one, name) for _, one in self.members]) for name in Targets.__slots__}
        owner, local = np.full(len(tokens), -1), np.full(len(tokens) + 1, NO_PARENT)  # local[NO_PARENT] too
        for number, (context, new) in enumerate(self._pieces(max(max_tokens, int(depths.max()) + 1))):
            places = np.array(context + new)
            owner[new] = number
            local[places] = np.arange(len(places))
            mine = owner[sources] == number
            yield Row(
                tokens=tokens[places],
                parents=local[parents[places]],
                positions=depths[places],
                sources=local[sources[mine]],
                targets=Targets(**{name: array[mine] for name, array in wanted.items()}),
                **{name: array[mine] for name, array in entries.items()},
            )

    def _pieces(self, max_tokens: int) -> Iterator[tuple[list[int], list[int]]]:
        """Context and new tokens of each row, parents first. A subtree that fits into a row is not cut in two."""
        held, new, sizes = set[int](), list[int](), self._sizes()
        for place in self._depth_first():
            above = self._missing(place, held)
            fits_alone = self.depths[place] + sizes[place] <= max_tokens
            wanted = len(held) + len(above) + (sizes[place] if fits_alone else 1)
            if new and wanted > max_tokens:
                yield sorted(held - set(new)), new
                held, new = set(), []
                above = self._missing(place, held)
            new.append(place)
            held |= {place, *above}
        yield sorted(held - set(new)), new

    def _sizes(self) -> list[int]:
        """Tokens of each subtree."""
        sizes = [1] * len(self.tokens)
        for place in range(len(sizes) - 1, 0, -1):
            sizes[self.parents[place]] += sizes[place]
        return sizes

    def _missing(self, place: int, held: set[int]) -> list[int]:
        """The tokens above one that a row does not have yet."""
        above = []
        while (place := self.parents[place]) >= 0 and place not in held:
            above.append(place)
        return above

    def _depth_first(self) -> Iterator[int]:
        """All places, each branch to its end before the next."""
        below: list[list[int]] = [[] for _ in self.tokens]
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                below[parent].append(place)
        stack = [0]
        while stack:
            place = stack.pop()
            yield place
            stack += reversed(below[place])


def num_laid_out(trajectory: Trajectory) -> int:
    """Tokens of all its branches one by one, each with the prompt: what one pass over the trie spares."""
    depths = np.zeros(len(trajectory.lengths) + 1, np.int64)  # the prompt's last, at NO_PARENT
    depths[NO_PARENT] = len(trajectory.prompt)
    for i, (length, parent) in enumerate(zip(trajectory.lengths, trajectory.parents, strict=True)):
        depths[i] = depths[parent] + length
    followed = np.zeros(len(depths), np.bool_)
    followed[trajectory.parents] = True
    return int(depths[~followed].sum())
