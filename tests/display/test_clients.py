"""Scores of single clients, by method."""

import io

from rich.console import Console

from fedpeft.display import make_client_score_tables


def show(scores):
    console = Console(file=io.StringIO(), width=80)
    for table in make_client_score_tables(scores, "accuracy"):
        console.print(table)
    return console.file.getvalue()


def test_a_row_for_each_client_and_a_dash_where_there_is_no_score():
    text = show({"fedit": {"a": 0.5, "b[x]": 1.0}, "local": {"a": 0.25}})
    lines = [line.split() for line in text.splitlines()]
    assert ["a", "50.0", "25.0"] in lines and ["b[x]", "100.0", "-"] in lines


def test_many_methods_and_clients_fit_80_columns_and_no_name_is_cut():
    labels = [*(f"fedavg_loreft_{i}" for i in range(11)), "a-label-of-forty-letters-that-somebody-ga"]
    text = show({label: {f"client-{i}": i / 1000 for i in range(1000)} for label in labels})
    assert max(map(len, text.splitlines())) <= 80 and "\u2026" not in text
    assert text.count("40 of 1,000 clients, from the highest mean to the lowest") == 3
    assert text.index("client-999 ") < text.index("client-0 ")
