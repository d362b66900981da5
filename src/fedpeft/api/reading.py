"""What finished runs and comparisons say, for programs; without the libraries that train."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeft.api.checks import require_path
from fedpeft.errors import UserError, preview

if TYPE_CHECKING:  # 0.3 seconds, for those who look at tables
    import pandas as pd


def show(path: str | Path) -> "pd.DataFrame":
    """The table of a finished comparison, or of one run, as `compare` returns it: a row for each method.

    `path`: its folder, or a compare.json. Raises UserError, one line, where there is none or it is damaged.
    """
    from fedpeft.runs.finished import read_finished

    folder = require_path(path)
    return make_frame(read_finished(folder)["rows"], folder)


def table(paths: str | Path | Sequence[str | Path], form: str = "markdown", *, per_client: bool = False) -> str:
    """The table to cite of finished runs and comparisons, as text: `form` is "markdown", "csv" or "latex".

    A row for each method, runs that differ by the seed alone together; `per_client`: a row for each client. Raises
    UserError, one line, where a path holds none or they cannot stand in one table.
    """
    from fedpeft.reports import write_table

    given = [paths] if isinstance(paths, str | Path) else paths
    if not isinstance(given, Sequence) or not given:
        raise UserError(f"paths: expected folders of runs or comparisons, received {preview(paths)}")
    return write_table([require_path(path) for path in given], form, per_client)


def make_frame(rows: Sequence[Mapping[str, Any]], folder: Path) -> "pd.DataFrame":
    """The rows of a comparison as a DataFrame, with each mean over seeds its standard deviation beside it."""
    import pandas as pd

    frame = pd.DataFrame([_flatten(row) for row in rows])
    frame.attrs["folder"] = str(folder)
    return frame


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a comparison with each {"mean": ..., "sd": ...} as two columns."""
    columns: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and value.keys() == {"mean", "sd"}:
            columns |= {name: value["mean"], f"{name}_sd": value["sd"]}
        else:
            columns[name] = value
    return columns
