"""Scores of single clients, a table of at most 80 columns each."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from fedpeft.display.labels import choose_evenly

METHODS = 5  # beside each other


def make_client_score_tables(scores: Mapping[str, Mapping[str, float]], metric: str) -> Iterator[Table]:
    """Each client's score by method; `scores` are by method, then by client. The best of a row is bold."""
    clients = sorted({client for own in scores.values() for client in own})
    means = {client: [own[client] for own in scores.values() if client in own] for client in clients}
    shown, more = choose_evenly(clients, lambda client: round(1e6 * sum(means[client]) / len(means[client])))
    if more is not None:
        more = more.replace("the largest to the smallest", "the highest mean to the lowest")
    labels = list(scores)
    for start in range(0, len(labels), METHODS):
        table = Table(
            title=f"by client, test {metric} %", caption=more, header_style="bold",
            box=box.SIMPLE_HEAD,
        )  # fmt: skip
        table.add_column("client", overflow="fold")
        for label in labels[start : start + METHODS]:
            table.add_column(Text(label), justify="right", overflow="fold")
        for client in shown:
            best = max(means[client])
            values = [scores[label].get(client) for label in labels[start : start + METHODS]]
            table.add_row(Text(client), *(_format(value, best) for value in values))
        yield table


def _format(value: float | None, best: float) -> Text:
    return Text("-") if value is None else Text(f"{100 * value:.1f}", "bold" if value == best else "")
