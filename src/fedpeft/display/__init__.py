"""What a person sees: the live display of a run, and tables within 80 columns."""

from fedpeft.display.bench import describe_best_option, make_bench_table
from fedpeft.display.checks import describe_checks
from fedpeft.display.clients import make_client_score_tables
from fedpeft.display.comparison import HEADINGS, format_cells, make_comparison_tables
from fedpeft.display.crossed import make_cross_table
from fedpeft.display.inspection import describe_inspection, make_client_table
from fedpeft.display.joining import make_joining_table
from fedpeft.display.labels import make_label_key, make_label_table
from fedpeft.display.progress import ProgressDisplay

__all__ = [
    "HEADINGS",
    "ProgressDisplay",
    "describe_best_option",
    "describe_checks",
    "describe_inspection",
    "format_cells",
    "make_bench_table",
    "make_client_score_tables",
    "make_client_table",
    "make_comparison_tables",
    "make_cross_table",
    "make_joining_table",
    "make_label_key",
    "make_label_table",
]
