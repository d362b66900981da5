"""The command that looks at data before anyone trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpeft.cli.app import Overrides, console, gc_paused, load, print_line, print_note
from fedpeft.errors import UserError, suggest

if TYPE_CHECKING:
    from fedpeft.tasks.inspect import Inspection

_EXPERIMENTS = (".yaml", ".yml")


def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="DATA_OR_EXPERIMENT", help="an experiment file, a data file, a folder of splits"),
    ],
    text: Annotated[str, typer.Option(help="data: the column of the text")] = "text",
    text_pair: Annotated[str | None, typer.Option(help="data: the column of the second text")] = None,
    label: Annotated[str, typer.Option(help="data: the column of the label")] = "label",
    client: Annotated[str, typer.Option(help="data: the column whose values are the clients")] = "client",
    model: Annotated[str | None, typer.Option(help="data: count this model's tokens; its tokenizer is read")] = None,
    max_length: Annotated[int | None, typer.Option(min=4, help="data: tell what this many tokens would cut")] = None,
    overrides: Overrides = None,
) -> None:
    """Show what data hold before anyone trains: clients, labels, skew, repeated texts, lengths; propose max_length."""
    with gc_paused():
        from fedpeft.display import describe_inspection, make_client_table, make_label_key

    length = max_length
    if path.suffix in _EXPERIMENTS:
        inspection, length = _inspect_experiment(path, overrides)
    else:
        if overrides:
            raise UserError(f"--set is for experiment files; {path} is data, name its columns with --text, --label")
        columns = {"text": text, "label": label, "client": client}
        inspection = _inspect_source(path, columns, text_pair, model)
        console.print(make_client_table(inspection))
        if inspection.labels:
            console.print(make_label_key([name for name, _ in inspection.labels.most_common()]))
    for line in describe_inspection(inspection, length):
        print_line(line)


def _inspect_experiment(path: Path, overrides: list[str] | None) -> "tuple[Inspection, int]":
    """What the experiment's clients get, in its model's tokens."""
    from fedpeft.backbones import load_tokenizer
    from fedpeft.display import make_label_key, make_label_table
    from fedpeft.tasks.inspect import Inspection, read_samples
    from fedpeft.tasks.kinds import make_task
    from fedpeft.tasks.load import load_task
    from fedpeft.tasks.summary import label_distribution

    experiment = load(path, overrides)
    data = load_task(experiment.task, experiment.partition, experiment.seed, path.parent)
    console.print(make_label_table(label_distribution(data), data.labels))
    if len(data.labels) > 1:
        console.print(make_label_key(data.labels))
    for note in data.notes:
        print_note(note)
    task = make_task(experiment.task, data.labels, load_tokenizer(experiment.model.name), _UNCUT)
    examples = [e for client in data.clients for split in (client.train, client.validation, client.test) for e in split]
    tokens = [encoded.length for encoded in task.encode(examples)]
    return Inspection(read_samples(data), tokens), experiment.model.max_length


def _inspect_source(path: Path, columns: dict[str, str], text_pair: str | None, model: str | None) -> "Inspection":
    """What a file or folder holds, in the model's tokens where one is named."""
    from fedpeft.tasks.inspect import Inspection, make_samples
    from fedpeft.tasks.sources import read_source

    if not path.exists():
        raise UserError(f"no such file or folder: {path}; give an experiment file, a data file, or a folder of splits")
    tables, notes = read_source(str(path.resolve()), Path())
    for note in notes:
        print_note(note)
    rows = [row for of_split in tables.values() for row in of_split]
    texts = [columns["text"], *([text_pair] if text_pair else [])]
    for column in texts:
        _require_column(column, rows)
    known = {key: column if all(column in row for row in rows) else None for key, column in columns.items()}
    names = [name for name in rows[0] if not str(name).startswith("@")]
    for key in ("label", "client"):
        if known[key] is None:
            print_note(f"no column {columns[key]!r}: --{key} names one; columns: {', '.join(names)}")
    samples = make_samples(rows, texts, known["label"], known["client"])
    if model is None:
        return Inspection(samples)
    from fedpeft.backbones import load_tokenizer
    from fedpeft.tasks.encode import encode
    from fedpeft.tasks.examples import Example

    pairs: list[Any] = [sample.texts if len(sample.texts) > 1 else (*sample.texts, None) for sample in samples]
    encoded = encode([Example(first, 0, second) for first, second in pairs], load_tokenizer(model), _UNCUT)
    return Inspection(samples, [row.length for row in encoded])


def _require_column(column: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if column not in row:
            names = [str(name) for name in row if not str(name).startswith("@")]
            raise UserError(
                f"{row['@where']}: no column {column!r}{suggest(column, names)}; --text names it; "
                f"columns: {', '.join(names)}"
            )


_UNCUT = 1_000_000  # tokens: the longest that `model.max_length` may be
