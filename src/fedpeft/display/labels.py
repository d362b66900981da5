"""Which client has which labels, as a picture that needs no colour, and counts."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fedpeft.tasks.examples import SPLITS

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
_WIDTH = 24  # characters of a whole bar
MOST_CLIENTS = 40  # rows of the table


def make_label_table(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Table:
    """Examples by client and split, and each client's label distribution as a bar of letters, one per label.

    `rows` are those of `tasks.summary.label_distribution`. Labels after the 26th share the sign "+".
    """
    more = len(rows) - MOST_CLIENTS
    table = Table(
        title="Examples by client",
        caption=f"and {more:,} more clients" if more > 0 else None,
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("client", overflow="fold")
    for split in SPLITS:
        table.add_column(split, justify="right", no_wrap=True)
    if labels:
        table.add_column("training labels", no_wrap=True)
    for row in rows[:MOST_CLIENTS]:
        bar = [_make_bar([row["labels"].get(label, 0.0) for label in labels])] if labels else []
        table.add_row(Text(row["client"]), *(f"{row[split]:,}" for split in SPLITS), *bar)
    return table


def make_label_key(labels: Sequence[str]) -> Text:
    """Which letter of `make_label_table` stands for which label."""
    key = Text("labels:")
    for i, label in enumerate(labels[: len(_LETTERS)]):
        key.append("  ").append(_LETTERS[i], _COLOURS[i % len(_COLOURS)]).append(f" {label}")
    if len(labels) > len(_LETTERS):
        key.append(f"  + {len(labels) - len(_LETTERS)} more")
    return key


def _make_bar(fractions: Sequence[float]) -> Text:
    """A bar of `_WIDTH` letters, each label's part rounded where it begins and ends, so that parts never add up to
    more or less."""
    bar, begin, total = Text(), 0, 0.0
    for i, fraction in enumerate(fractions):
        total += fraction
        end = round(_WIDTH * total)
        bar.append((_LETTERS[i] if i < len(_LETTERS) else "+") * (end - begin), _COLOURS[i % len(_COLOURS)])
        begin = end
    return bar
