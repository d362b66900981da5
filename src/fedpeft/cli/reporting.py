"""The command that makes a report from what runs have left."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import gc_paused, print_line


def report(
    path: Annotated[Path, typer.Argument(help="a run's folder, a comparison's, or a compare.json")],
    out: Annotated[Path | None, typer.Option(help="the file to write; default: report.html in the folder")] = None,
) -> None:
    """Write the report of a run or a comparison, finished or not: one HTML page with tables, charts and downloads."""
    with gc_paused():
        from fedpeft.reports import write_report

    print_line(f"written to {write_report(path, out)}")
