"""What a person sees: the live display of a run, and tables within 80 columns.

Its names are imported when they are first used: tables of data need none of the libraries that train.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpeft.display.bench import describe_best_option, make_bench_table
    from fedpeft.display.checks import describe_checks
    from fedpeft.display.clients import make_client_score_tables
    from fedpeft.display.comparison import HEADINGS, format_cells, make_comparison_tables
    from fedpeft.display.crossed import make_cross_table
    from fedpeft.display.inspection import describe_inspection, make_client_table
    from fedpeft.display.joining import make_joining_table
    from fedpeft.display.labels import make_label_key, make_label_table
    from fedpeft.display.progress import ProgressDisplay

_NAMES = {
    "bench": (
        "describe_best_option",
        "make_bench_table",
    ),
    "checks": ("describe_checks",),
    "clients": ("make_client_score_tables",),
    "comparison": (
        "HEADINGS",
        "format_cells",
        "make_comparison_tables",
    ),
    "crossed": ("make_cross_table",),
    "inspection": (
        "describe_inspection",
        "make_client_table",
    ),
    "joining": ("make_joining_table",),
    "labels": (
        "make_label_key",
        "make_label_table",
    ),
    "progress": ("ProgressDisplay",),
}

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


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
