"""A report as one HTML document that needs no network. Knows nothing about how figures and trees are made."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tsd.report.course import FIGURES, GENERATED, Curves, Point
from tsd.report.examples import Examples
from tsd.report.figures import differences, evaluations, flow, learning, overview, throughput, validations
from tsd.report.markup import configuration, examples, flagged, table, text
from tsd.report.run import RunReport
from tsd.report.tree import script
from tsd.solve.evaluate import Evaluation

PAGE = Path(__file__).parent / "report.html"
TITLES = {
    "mean": "mean@k on held-out problems",
    "validation": "mean@k on validation problems",
    **{name: one["title"] for name, one in FIGURES.items()},
    GENERATED: "tokens/s generated",
}
"""What the page draws, in this order."""


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What the page draws of one run."""

    name: str
    curves: Curves
    points: tuple[Point, ...]
    validations: tuple[Point, ...]


def page(runs: Sequence[RunReport], trees: Sequence[Examples]) -> str:
    """`trees` are those of each run, or none at all."""
    names = [run.name for run in runs]
    parts = {
        "TITLE": text(", ".join(names)),
        "HEAD": table(overview(runs), names) + table(differences(runs), names) + "".join(map(configuration, runs)),
        "EVALUATIONS": "".join(table(one, names) for one in (evaluations(runs), validations(runs)) if one.rows),
        "TABLES": "".join(table(one, names) for one in (learning(runs), throughput(runs), flow(runs))),
        "FLAGGED": "".join(map(flagged, runs)),
        "EXAMPLES": _examples(names, trees),
        "DATA": script([_drawn(run) for run in runs]),
        "TITLES": script(TITLES),
    }
    return _filled(PAGE.read_text(encoding="utf-8"), parts)


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """In one pass: what is put in is not looked at again."""
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], template)


def _examples(names: Sequence[str], trees: Sequence[Examples]) -> str:
    if not trees:
        return "<p>Left out, as asked for.</p>"
    return "".join(map(examples, names, trees))


def _drawn(run: RunReport) -> Drawn:
    trained = (run.num_updates, run.generated_tokens, run.training_seconds or 0.0)
    found = [_point(run.before, 0, 0, 0.0), _point(run.after, *trained)]
    points = tuple(point for point in found if point)
    return Drawn(name=run.name, curves=run.curves, points=points, validations=run.validations)


def _point(found: Evaluation | None, update: int, generated_tokens: int, seconds: float) -> Point | None:
    if found is None:
        return None
    low, high = found.ci95
    return Point(
        update=update,
        generated_tokens=generated_tokens,
        seconds=seconds,
        mean=found.mean_at_k,
        low=low,
        high=high,
    )
