"""A report on disk."""

from pathlib import Path

from fedpeft.atomic_files import write_atomically
from fedpeft.reports.collect import collect
from fedpeft.reports.page import make_page


def write_report(path: Path, out: Path | None = None) -> Path:
    """Writes the report of a run or a comparison; returns its file, by default `report.html` in the folder.

    `path` is a run's folder, a comparison's, or a compare.json. Raises UserError where it is none of them, or where
    the report cannot be written.
    """
    record = collect(path)
    file = out or (path.with_suffix(".html") if path.is_file() else path / "report.html")
    write_atomically(file, make_page(record).encode())
    return file
