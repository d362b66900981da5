"""Commands that train nothing: write an experiment file, check one, list runs."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedpeft.cli.app import (
    ExperimentFile,
    Overrides,
    console,
    gc_paused,
    load,
    print_line,
    print_note,
    read_template,
    resolve_budgets,
    show_label_distribution,
)
from fedpeft.errors import UserError

if TYPE_CHECKING:
    from fedpeft.config import Experiment


def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("experiment.yaml"),
    data: Annotated[Path | None, typer.Option(help="a table of your own, in place of the small data set")] = None,
    text: Annotated[str, typer.Option(help="of --data: the column of the text")] = "text",
    label: Annotated[str, typer.Option(help="of --data: the column of the label")] = "label",
    client: Annotated[str, typer.Option(help="of --data: the column whose values are the clients")] = "client",
) -> None:
    """Write a commented experiment file to start from, on your own data where --data names them."""
    from fedpeft.atomic_files import write_atomically

    try:
        if path.exists():
            raise UserError(f"{path} exists already; give another name or remove it")
        if not path.parent.is_dir():
            raise UserError(f"no such folder: {path.parent}; create it first")
        if data is not None and not data.exists():
            raise UserError(f"--data: no such file or folder: {data}; mend the path")
        columns = {"text": text, "label": label, "client": client}
        write_atomically(path, read_template() if data is None else _fill_in_data(path, data, columns))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give a file in another folder") from error
    print_line(f"wrote {path}\nnext: fedpeft validate {path}")


def _fill_in_data(path: Path, data: Path, columns: dict[str, str]) -> bytes:
    """The commented file with the data, their columns and a name of their own; the path starts at the file."""
    source = data.resolve()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name.split(".")[0]).strip("-._") or "mine"
    if source.is_relative_to(path.parent.resolve()):
        source = source.relative_to(path.parent.resolve())
    values = {"name": name, "  source": str(source), "  text": columns["text"], "  label": columns["label"]}
    lines = read_template().decode().splitlines()
    for key, value in (values | {"  column": columns["client"]}).items():
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
        comment = lines[place].partition("#")[2]
        lines[place] = f"{key}: {json.dumps(value, ensure_ascii=False)}" + (f"  #{comment}" if comment else "")
    return ("\n".join(lines) + "\n").encode()


def validate(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    model: Annotated[
        bool, typer.Option("--model", help="load the model, too, and train one client once: memory, bytes, time")
    ] = False,
) -> None:
    """Check an experiment file and its data, and show the label distribution by client."""
    loaded = load(experiment, overrides)
    for note in show_label_distribution(loaded, experiment.parent):
        print_note(note)
    methods = ", ".join(loaded.methods)
    if not model:
        print_line(f"{experiment} is valid: methods {methods}; the model is read when a run begins, or with --model")
        return
    _show_model(loaded, experiment.parent)
    print_line(f"{experiment} is valid, and its model trains: methods {methods}")


def _show_model(experiment: "Experiment", base: Path) -> None:
    """Prints what the model makes of the experiment, method by method."""
    with gc_paused():
        from fedpeft.display import describe_checks
        from fedpeft.runs.check_model import check_model

    with console.status("loading the model"):
        checks = list(check_model(resolve_budgets(experiment), list(experiment.methods), base))
    for note in dict.fromkeys(note for check in checks for note in check.notes):
        print_note(note)
    console.print(describe_checks(checks))


def ls(root: Annotated[Path, typer.Argument(help="a folder of runs")] = Path("runs")) -> None:
    """List the runs under a folder: finished with their score, or how far they are."""
    from fedpeft.runs.run_files import RunFiles

    files = root.rglob("experiment.yaml") if root.is_dir() else ()
    paths = sorted(file.parent for file in files if (file.parent / "metrics.jsonl").exists())  # else a user's own file
    if not paths:
        raise UserError(f"no runs under {root}; `fedpeft run` makes one")
    for path in paths:
        try:
            result = RunFiles(path).result
        except UserError as error:
            print_line(f"{path}  unreadable: {error}")
            continue
        state = f"not finished; continue with fedpeft resume {path}"
        if result:
            score = 100 * result["test"]["deployed"]["by_client"]
            state = f"{score:.1f} % deployed test {result['metric']}, {result['rounds']} rounds"
        print_line(f"{path}  {state}")
