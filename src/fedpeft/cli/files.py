"""Commands that train nothing: write an experiment file, check one, list runs."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import (
    ExperimentFile,
    Overrides,
    load,
    print_line,
    print_note,
    read_template,
    show_label_distribution,
)
from fedpeft.errors import UserError


def init(path: Annotated[Path, typer.Argument(help="the file to write")] = Path("experiment.yaml")) -> None:
    """Write a commented experiment file to start from."""
    from fedpeft.atomic_files import write_atomically

    try:
        if path.exists():
            raise UserError(f"{path} exists already; give another name or remove it")
        if not path.parent.is_dir():
            raise UserError(f"no such folder: {path.parent}; create it first")
        write_atomically(path, read_template())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give a file in another folder") from error
    print_line(f"wrote {path}\nnext: fedpeft validate {path}")


def validate(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """Check an experiment file and its data, and show the label distribution by client."""
    loaded = load(experiment, overrides)
    for note in show_label_distribution(loaded, experiment.parent):
        print_note(note)
    print_line(f"{experiment} is valid: methods {', '.join(loaded.methods)}; the model is read when a run begins")


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
