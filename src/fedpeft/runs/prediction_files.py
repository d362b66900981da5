"""Files of rows to predict, and of what was predicted."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpeft.atomic_files import write_atomically
from fedpeft.errors import UserError, suggest
from fedpeft.runs.export import read_card
from fedpeft.tasks.files import read_file
from fedpeft.tasks.formats import Row
from fedpeft.tasks.kinds import find_kind

FORMATS = (".csv", ".jsonl")
PREDICTION, PROBABILITY = "prediction", "probability"  # the columns that are added


def read_queries(run: Path, client: str, file: Path) -> tuple[list[Row], list[str], list[str] | None]:
    """The rows of a file, their texts, and their second texts where the run's task has pairs.

    The columns are those of the run's task; a label is not needed. Raises UserError, with the place, for a row without
    a text, and as `read_card` and `read_file` do.
    """
    task = read_card(run, client).task
    rows = read_file(file)
    for row in rows:
        for column in filter(None, (task.text, task.text_pair)):
            if column not in row:
                names = [str(name) for name in row if not str(name).startswith("@")]
                raise UserError(
                    f"{row['@where']}: no column {column!r}{suggest(column, names)}, which the run's task reads; "
                    f"columns: {', '.join(names)}"
                )
    kind = find_kind(task.kind)
    queries = [kind.read_texts(task, row) for row in rows]
    return rows, [first for first, _ in queries], [second or "" for _, second in queries] if task.text_pair else None


def require_writable(out: Path) -> None:
    """Raises UserError, before anything is predicted, where a file of predictions cannot be written."""
    if out.suffix not in FORMATS:
        raise UserError(f"--out: predictions are written as {' or '.join(FORMATS)}, received {out.name!r}")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out: {out} is a folder, or in none that is there; give a file in a folder that is")


def write_predictions(out: Path, rows: Sequence[Row], predictions: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows, in their order, each with what was predicted of it, as CSV or as JSON lines.

    Raises UserError where a row has a column of the name that is added.
    """
    records = []
    for row, prediction in zip(rows, predictions, strict=True):
        added = {PREDICTION: get_answer(prediction)}
        if PROBABILITY in prediction:
            added[PROBABILITY] = round(prediction[PROBABILITY], 6)
        columns = {str(name): value for name, value in row.items() if not str(name).startswith("@")}
        if taken := columns.keys() & added.keys():
            raise UserError(f"{row['@where']}: there is a column {min(taken)!r} already; rename it")
        records.append(columns | added)
    if out.suffix == ".csv":
        text = io.StringIO()
        names = list(dict.fromkeys(name for record in records for name in record))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        contents = text.getvalue()
    else:
        contents = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    write_atomically(out, contents.encode())


def get_answer(prediction: Mapping[str, Any]) -> Any:
    """The label, the number, or the text that was written."""
    return next(prediction[key] for key in ("label", "number", "written") if key in prediction)
