"""Commands that train nothing: write an experiment file, check one, list runs."""

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
