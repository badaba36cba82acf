"""A report in a terminal: the tables, as many runs beside each other as fit. Knows nothing about where figures come
from."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table as Drawing
from rich.text import Text

from tsd.observe.printable import printable
from tsd.report.figures import Table, tables
from tsd.report.run import RunReport

LABEL_WIDTH = 27
COLUMN_WIDTHS = 25, 38
"""Width of a run's column, least and most; what is longer is broken into lines."""
TITLE, QUIET = "bold cyan", "bright_black"


def draw(runs: Sequence[RunReport], width: int) -> RenderableType:
    """All tables for terminals `width` columns wide, and below them what the runs found wrong with themselves."""
    least, most = COLUMN_WIDTHS
    at_once = min(len(runs), max(1, (width - LABEL_WIDTH) // (least + 1)))
    column = max(least, min(most, (width - LABEL_WIDTH) // at_once - 1))
    parts: list[RenderableType] = []
    for first in range(0, len(runs), at_once):
        shown = slice(first, first + at_once)
        # Settings differ between all runs, not between those that happen to stand beside each other.
        for table in tables(runs):
            if table.rows:
                parts += [_drawing(table, [run.name for run in runs[shown]], shown, column), Text()]
    return Group(*parts, *_flagged(runs))


def _drawing(table: Table, names: Sequence[str], shown: slice, column: int) -> Drawing:
    drawing = Drawing(box=None, padding=(0, 1, 0, 0), title=Text(table.title, style=TITLE), title_justify="left")
    drawing.add_column("", width=LABEL_WIDTH - 1, style=QUIET)
    for name in names:
        drawing.add_column(_text(name), width=column, overflow="fold")
    for label, cells in table.rows:
        drawing.add_row(_text(label), *map(_text, cells[shown]))
    return drawing


def _flagged(runs: Sequence[RunReport]) -> Iterator[Text]:
    yield Text("flagged as wrong", style=TITLE)
    for run in runs:
        for line in run.flagged or ("nothing",):
            yield Text.assemble((f"{printable(run.name)}: ", QUIET), printable(line))


def _text(text: str) -> Text:
    return Text(printable(text))  # bare text would be read as markup
