"""A model at work outside training.

solve                  one problem answered with search: `tsd solve`
serve                  the same for whoever asks over HTTP: `tsd serve`
evaluate               mean@k on a file of problems: `tsd eval`, and a run's own before and after
solving                what search, samples and choices among samples solve for their tokens: `tsd eval --search`
calibrate              what a model's V is worth: `tsd calibrate`
measure, measurement   how fast search runs on an engine: `tsd bench-search`
"""

from tsd.solve.measure import bench_search
from tsd.solve.measurement import Measurement
from tsd.solve.show import plot, recommendation, rows_table
from tsd.solve.solving import Solving, compare_solving, solving_table

__all__ = [
    "Measurement",
    "Solving",
    "bench_search",
    "compare_solving",
    "plot",
    "recommendation",
    "rows_table",
    "solving_table",
]
