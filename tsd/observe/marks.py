"""Numbers drawn as characters. Knows nothing about what they measure."""

from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` bars from the lowest value to the highest; where there are more values, means of neighbours."""
    num = min(width, len(values))
    cuts = [len(values) * i // num for i in range(num + 1)] if num else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def interval_bar(low: float, mean: float, high: float, highest: float, width: int) -> str:
    """`   ├──●──┤`, where `width` stands for `highest`."""
    at = [min(width - 1, round(x / highest * (width - 1))) if highest else 0 for x in (low, mean, high)]
    line = [" "] * at[0] + ["─"] * (at[2] - at[0] + 1)
    line[at[0]], line[at[2]] = "├", "┤"
    line[at[1]] = "●"
    return "".join(line)
