"""`tsd bench-search`: how fast search runs on an engine, and what it finds there."""

from tsd.bench.measure import bench_search
from tsd.bench.row import Row
from tsd.bench.show import plot, recommendation, rows_table
from tsd.bench.solving import Solving, compare_solving, solving_table

__all__ = [
    "Row",
    "Solving",
    "bench_search",
    "compare_solving",
    "plot",
    "recommendation",
    "rows_table",
    "solving_table",
]
