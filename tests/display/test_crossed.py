"""The matrix of cross-evaluation, and what is shown of one that is wider than a terminal."""

import io

import pytest
from rich.console import Console

from fedpeft.display import make_cross_table


def show(clients):
    names = [f"client{i}" for i in range(clients)]
    matrix = {a: {b: 0.9 if a == b else 0.1 * (i % 5) for b in names} for i, a in enumerate(names)}
    console = Console(file=io.StringIO(), width=80)
    console.print(make_cross_table({"label": "fedreft", "metric": "accuracy", "cross": matrix}))
    return console.file.getvalue()


@pytest.mark.parametrize("clients", [2, 8, 9, 100])
def test_it_fits_80_columns_and_names_every_client(clients):
    text = show(clients)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert all(f"client{i} " in text for i in range(clients))


def test_a_small_one_is_whole_a_large_one_is_summarised():
    assert "1 client0   90.0    0.0" in show(2) and "2 client1   10.0   90.0" in show(2)
    line = next(line for line in show(9).splitlines() if "client1 " in line)
    assert line.split() == ["client1", "90.0", "10.0", "10.0"]
