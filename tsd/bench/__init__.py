"""`tsd bench-search`: how fast search runs on an engine, and what it finds there."""

from tsd.bench.measure import bench_search
from tsd.bench.row import Row
from tsd.bench.show import plot, recommendation, rows_table

__all__ = ["Row", "bench_search", "plot", "recommendation", "rows_table"]
