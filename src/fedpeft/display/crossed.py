"""Every client's deployed model on every client's test examples."""

from statistics import mean
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

WIDEST = 8  # clients whose matrix fits 80 columns


def make_cross_table(result: dict[str, Any]) -> Table:
    """Scores of every client's deployed model (rows) on every client's test examples (columns, by number).

    Of more clients than a terminal is wide for, each model's score on its own examples, and on the others'.
    """
    matrix: dict[str, dict[str, float]] = result["cross"]
    is_whole = len(matrix) <= WIDEST
    table = Table(
        title=f"{result['label']}: each client's deployed model on every client's test examples, {result['metric']} %",
        caption="columns: the clients in the same order; green: the best model of a column" if is_whole else None,
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("model of", overflow="fold")
    for heading in map(str, range(1, len(matrix) + 1)) if is_whole else ("own", "others' mean", "others' worst"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = {client: max(scores[client] for scores in matrix.values()) for client in matrix}
    for number, (model, scores) in enumerate(matrix.items(), 1):
        if is_whole:
            cells = [Text(f"{100 * v:.1f}", "green" if v == best[client] else "") for client, v in scores.items()]
            table.add_row(Text(f"{number} {model}"), *cells)
        else:
            others = [score for client, score in scores.items() if client != model]
            table.add_row(Text(model), *(f"{100 * v:.1f}" for v in (scores[model], mean(others), min(others))))
    return table
