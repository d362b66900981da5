"""Which client has which labels, as a picture that needs no colour, and counts."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from fedpeft.tasks.examples import SPLITS

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
_WIDTH = 24  # characters of a whole bar
MOST_CLIENTS = 40  # rows of the table
T = TypeVar("T")


def make_label_table(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Table:
    """Examples by client and split, and each client's label distribution as a bar of letters, one per label.

    `rows` are those of `tasks.summary.label_distribution`. Labels after the 26th share the sign "+".
    """
    shown, more = choose_evenly(rows, lambda row: row["train"])
    table = Table(
        title="Examples by client",
        caption=more,
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("client", overflow="fold")
    for split in SPLITS:
        table.add_column(split, justify="right", no_wrap=True)
    if labels:
        table.add_column("training labels", no_wrap=True)
    for row in shown:
        bar = [make_bar([row["labels"].get(label, 0.0) for label in labels])] if labels else []
        table.add_row(Text(row["client"]), *(f"{row[split]:,}" for split in SPLITS), *bar)
    return table


def choose_evenly(rows: Sequence[T], size: Callable[[T], int]) -> tuple[Sequence[T], str | None]:
    """Of more rows than a table has, some from the largest to the smallest at even distances, and a line that says so;
    else all of them in their order."""
    if len(rows) <= MOST_CLIENTS:
        return rows, None
    ordered = sorted(rows, key=size, reverse=True)
    last = len(rows) - 1
    chosen = [ordered[round(i * last / (MOST_CLIENTS - 1))] for i in range(MOST_CLIENTS)]
    return chosen, f"{MOST_CLIENTS} of {len(rows):,} clients, from the largest to the smallest"


def make_label_key(labels: Sequence[str]) -> Text:
    """Which letter of `make_label_table` stands for which label."""
    key = Text("labels:")
    for i, label in enumerate(labels[: len(_LETTERS)]):
        key.append("  ").append(_LETTERS[i], _COLOURS[i % len(_COLOURS)]).append(f" {label}")
    if len(labels) > len(_LETTERS):
        key.append(f"  + {len(labels) - len(_LETTERS)} more")
    return key


def make_bar(fractions: Sequence[float]) -> Text:
    """A bar of `_WIDTH` letters, each label's part rounded where it begins and ends, so that parts never add up to
    more or less."""
    bar, begin, total = Text(), 0, 0.0
    for i, fraction in enumerate(fractions):
        total += fraction
        end = round(_WIDTH * total)
        bar.append((_LETTERS[i] if i < len(_LETTERS) else "+") * (end - begin), _COLOURS[i % len(_COLOURS)])
        begin = end
    return bar
