"""What a person sees: the live display of a run, and tables within 80 columns."""

from fedpeft.display.bench import bench_advice, bench_table
from fedpeft.display.comparison import HEADINGS, cells, comparison_tables
from fedpeft.display.crossed import cross_table
from fedpeft.display.joining import joining_table
from fedpeft.display.labels import label_key, label_table
from fedpeft.display.progress import ProgressDisplay

__all__ = [
    "HEADINGS",
    "ProgressDisplay",
    "bench_advice",
    "bench_table",
    "cells",
    "comparison_tables",
    "cross_table",
    "joining_table",
    "label_key",
    "label_table",
]
