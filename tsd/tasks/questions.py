"""What tasks of questions with one answer share: reading them from a file or a data set, and the splits.

A problem is `{"question":"...","answer":"72"}`, whatever the columns it was read from. Knows nothing about grading.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from tsd.config import TaskConfig
from tsd.tasks.answers import ask
from tsd.tasks.splits import in_split
from tsd.tasks.tables import Row, read_row, read_tables
from tsd.types import Grade, Problem, PromptStyle, Split

EXACT, WRONG, ILLEGAL = Grade(1.0, True, True), Grade(0.0, False, True), Grade(-1.0, False, False)
OWN: dict[Split, str] = {"heldout": "test", "validation": "validation", "train": "train"}
"""What data sets call these splits. A problem that is in several counts to the first."""


class Question(msgspec.Struct, frozen=True):
    """One row; what else it holds is passed over."""

    question: Annotated[str, Meta(min_length=1, max_length=20_000)]
    answer: Annotated[str, Meta(max_length=20_000)] | int | float


_decoder = msgspec.json.Decoder(Question)


class Questions:
    """A `Task` but for its `name`, `grade` and `result`. A split has what there is, be it fewer than asked for."""

    name: str

    def __init__(self, config: TaskConfig) -> None:
        """Raises ValueError naming the file or data set, and the row, that cannot be read."""
        if not config.path:
            raise ValueError(
                f'task.path: the task {self.name} needs a JSONL file of {{"question":"...","answer":"72"}} lines, a '
                "Parquet file, or a data set such as hf:openai/gsm8k:main"
            )
        self.columns = {"question": "question", "answer": "answer", **config.columns}
        try:
            self.splits = _split(config.path, read_tables(config.path, self._problem))
        except ValueError as error:
            raise ValueError(f"task.path: {error}") from None

    def result(self, answer: str) -> str:
        """The result alone, of an answer as it stands in a row. Raises ValueError where there is none."""
        raise NotImplementedError

    def parse(self, line: str) -> Problem:
        return self._problem(read_row(line))

    def _problem(self, row: Row) -> Problem:
        """From the columns that the configuration names, or from a problem's own."""
        named = {name: column if column in row else name for name, column in self.columns.items()}
        if missing := [self.columns[name] for name, column in named.items() if column not in row]:
            raise ValueError(
                f"expected a column {missing[0]!r}, found {', '.join(map(repr, row)) or 'none'}; name yours, as in "
                "task.columns={question=problem, answer=solution}"
            )
        try:
            asked = msgspec.convert({name: row[column] for name, column in named.items()}, Question)
        except msgspec.ValidationError as error:
            raise ValueError(f'expected {{"question":"...","answer":"72"}}, found {str(row)[:80]}: {error}') from None
        result = self.result(str(asked.answer))
        digest = hashlib.blake2b(asked.question.encode(), digest_size=8).hexdigest()
        return Problem(f"{self.name}-{digest}", msgspec.json.encode(Question(asked.question, result)).decode())

    def problems(self, split: Split, count: int, seed: int) -> Iterator[Problem]:
        own = list(self.splits[split])
        random.Random(f"{split} {seed}").shuffle(own)
        yield from own[:count]

    def prompt(self, problem: Problem, style: PromptStyle) -> str:
        return ask(_decoder.decode(problem.text).question, style)

    def expected(self, problem: Problem) -> str:
        """The result that a problem asks for."""
        return str(_decoder.decode(problem.text).answer)


def _split(path: str, tables: Mapping[str, Iterable[Problem]]) -> dict[Split, list[Problem]]:
    """Every problem once. What a data set has no split of its own for is cut from the one that it trains on."""
    tables = {"train": next(iter(tables.values()))} if len(tables) == 1 else tables
    if "train" not in tables:
        raise ValueError(
            f"expected a split 'train' in {path}, found {', '.join(map(repr, tables))}; rename its splits to train, "
            "validation and test, and save it with save_to_disk"
        )
    cut = [split for split, name in OWN.items() if name not in tables]
    splits: dict[Split, list[Problem]] = {split: [] for split in OWN}
    seen = set[str]()
    for own, name in OWN.items():
        for problem in tables.get(name, ()):
            if problem.id not in seen:
                seen.add(problem.id)
                place = own if own != "train" else next((one for one in cut if in_split(problem.id, one)), own)
                splits[place].append(problem)
    return splits
