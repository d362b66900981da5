"""The app that commands are added to, and what several of them share."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from fedpeft import __version__
from fedpeft.errors import UserError, printable, suggest

if TYPE_CHECKING:
    from fedpeft.config import Experiment


class Interrupted(Exception):
    """Ctrl-C in a command whose work goes on later; the message says how."""


class _Commands(TyperGroup):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            raise UserError(f"no such command {args[0]!r}{suggest(args[0], known)}; `fedpeft --help` lists them")
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Commands, pretty_exceptions_enable=False)
# A terminal and COLUMNS have a width; a file or a pipe gets one in which captions are read well. What is shown may be
# anybody's text, so that nothing in square brackets is markup.
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140, markup=False)

ExperimentFile = Annotated[Path, typer.Argument(help="the experiment's YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="over the file's, e.g. training.rounds=3")
]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="over the file's: local, batched, flower-sim or flower (docs/deploy.md)")
]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    """Federated fine-tuning of pre-trained language models for clients that differ in data, task and memory."""
    if version:
        console.print(__version__, highlight=False)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@contextmanager
def gc_paused() -> Iterator[None]:
    """Context manager that pauses garbage collection during heavy imports.

    These make a million objects that stay: collecting would take a fifth of the time now, and some of it later.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def hint_on_interrupt(marker: Path, hint: str) -> Iterator[None]:
    """Context manager in which ctrl-C ends in `Interrupted` with the hint, where `marker` is there by then."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(hint if marker.exists() else "nothing was written") from error


def print_line(text: str, style: str | None = None) -> None:
    """Prints lines as long as they are, so that a path can be copied; control characters as their escapes."""
    shown = "\n".join(printable(line, len(line) * 10) for line in text.split("\n"))
    console.print(shown, style=style, highlight=False, soft_wrap=True)
    console.file.flush()  # whoever reads a service's log wants the line now


def print_note(line: str) -> None:
    """Prints one line beside the results."""
    print_line(line, "dim")


def load(path: Path, overrides: list[str] | None, engine: str | None = None) -> "Experiment":
    """The experiment of a file, with its notes printed; `engine` is one in place of the file's."""
    if engine is not None:
        overrides = [*(overrides or []), f"engine={engine}"]
    with gc_paused():
        from fedpeft.config import load_experiment

    experiment = load_experiment(path, overrides)
    for note in experiment.notes:
        print_note(note)
    return experiment


def resolve_budgets(experiment: "Experiment") -> "Experiment":
    """The experiment with the budgets of `resources` turned into what fits them."""
    if not experiment.resources:
        return experiment
    from fedpeft.budgets.resolve_budgets import get_probe_path
    from fedpeft.budgets.resolve_budgets import resolve_budgets as fit

    return fit(experiment, print_note, get_probe_path())


def show_label_distribution(experiment: "Experiment", base: Path) -> list[str]:
    """Prints how many examples each client has of each label; returns the notes on the data."""
    from fedpeft.display import make_label_key, make_label_table
    from fedpeft.tasks.load import load_task
    from fedpeft.tasks.summary import describe_data, label_distribution

    data = load_task(experiment.task, experiment.partition, experiment.seed, base)
    console.print(make_label_table(label_distribution(data), data.labels))
    if data.labels:
        console.print(make_label_key(data.labels))
    return [*data.notes, *describe_data(data, experiment.model.max_length)]


def read_template() -> bytes:
    """The commented experiment file that `init` writes."""
    return files("fedpeft").joinpath("experiment.yaml").read_bytes()
