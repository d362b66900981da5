"""Label distributions as a picture that needs no colour."""

import io

from rich.console import Console

from fedpeft.display import make_label_key, make_label_table
from fedpeft.display.labels import MOST_CLIENTS, choose_evenly


def show(thing):
    console = Console(file=io.StringIO(), width=80)
    console.print(thing)
    return console.file.getvalue()


def make_row(client, **labels):
    return {"client": client, "train": 1234, "validation": 30, "test": 100, "labels": labels}


def test_each_label_is_a_letter_and_parts_add_up_to_the_whole_bar():
    text = show(
        make_label_table([make_row("apple", a=1 / 3, b=1 / 3, c=1 / 3), make_row("nokia", c=1.0)], ["a", "b", "c"])
    )
    assert "aaaaaaaabbbbbbbbcccccccc" in text and "c" * 24 in text and "1,234" in text
    odd = show(make_label_table([make_row("x", **{str(i): 1 / 7 for i in range(7)})], [str(i) for i in range(7)]))
    assert sum(odd.split("x ")[-1].count(letter) for letter in "abcdefg") == 24


def test_many_labels_and_many_clients_fit():
    labels = [f"label{i}" for i in range(40)]
    rows = [make_row(f"client{i}", **dict.fromkeys(labels, 1 / 40)) for i in range(10_000)]
    text = show(make_label_table(rows, labels))
    assert f"{MOST_CLIENTS} of 10,000 clients" in text and "+++" in text
    assert max(map(len, text.splitlines())) <= 80
    key = show(make_label_key(labels))
    assert "z label25" in key and "+ 14 more" in key


def test_of_many_clients_the_largest_the_smallest_and_some_between_are_shown():
    rows = [make_row(f"client{i}", a=1.0) | {"train": i} for i in range(1_000)]
    shown, line = choose_evenly(rows, lambda row: row["train"])
    assert [row["train"] for row in shown[:2]] == [999, 973] and shown[-1]["train"] == 0 and len(shown) == MOST_CLIENTS
    assert line == "40 of 1,000 clients, from the largest to the smallest"
    assert choose_evenly(rows[:3], len) == (rows[:3], None)


def test_the_key_names_the_letters():
    assert show(make_label_key(["neg", "[pos]"])) == "labels:  a neg  b [pos]\n"


def test_a_task_without_labels_has_no_bar():
    assert "labels" not in show(make_label_table([make_row("apple")], []))
