"""Rows as items: what makes two texts the same, and what may name a client."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.items import make_item, require_client_id
from fedpeft.tasks.kinds import find_kind
from fedpeft.tasks.labels import LabelIndex

LABELS = LabelIndex(["0", "1"], "is unknown")


def make(text, column=None, pair=None, **columns):
    task = TaskConfig(source="rows.jsonl", text_pair="other" if pair else None)
    row = {"text": text, "other": pair, "label": 1, "@where": "a.csv:2"} | columns
    return make_item(row, find_kind(task.kind), task, column, LABELS)


def test_case_and_space_do_not_make_another_text():
    assert make("A  film\n").key == make(" a film").key != make("a films").key
    assert make("A  film\n").example.text == "A  film\n"


def test_both_texts_of_a_pair_tell_it_apart():
    assert make("a", pair="b c").key == make("A", pair="B  c").key
    assert len({make("a", pair="b c").key, make("a b", pair="c").key, make("a b c").key}) == 3


def test_a_column_names_the_client():
    assert make("a").client == ""
    assert make("a", column="site", site=" north ").client == "north"
    assert make("a", column="site", site=7).client == "7"
    with pytest.raises(UserError, match=r"^a\.csv:2: column 'site' names a client 'a/b'; a client id is 1 to 100"):
        make("a", column="site", site="a/b")


@pytest.mark.parametrize("value", ["a", "north-1", "Æ ø", ".5"[1:], "x" * 100, 3])
def test_an_id_that_names_a_folder(value):
    assert require_client_id(value, "--id") == str(value)


@pytest.mark.parametrize(
    "value",
    [".", "..", ".hidden", "*", "a/b", "a\\b", "a\nb", "a\x9bb", "a\ud800", "a\u2028b", "x" * 101, "北" * 70, ["a"]],
)
def test_an_id_that_cannot_name_a_folder_is_one_line(value):
    with pytest.raises(UserError, match=r"--id names a client .*: rename it") as caught:
        require_client_id(value, "--id")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "  ", "nan", "NaN", float("nan"), "<NA>"])
def test_a_missing_id_is_one_line(value):
    with pytest.raises(UserError, match=r"^a\.csv:2 names no client, received .*; fill it or remove the row$"):
        require_client_id(value, "a.csv:2")
