"""Values of single columns: as they are used, or one line with the row's place."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.columns import read_answer, read_label, read_number, read_text


def make_row(value):
    return {"column": value, "@where": "a.csv:7"}


def refuse(read, value, line):
    with pytest.raises(UserError) as caught:
        read(make_row(value), "column")
    assert str(caught.value).startswith(f"a.csv:7: {line}") and "\n" not in str(caught.value)


def test_a_text_stays_as_it_is():
    assert read_text(make_row(" two  words\n"), "column") == " two  words\n"
    for value in (None, 3, "", " \n"):
        refuse(read_text, value, f"expected a text in column 'column', received {value!r}")


@pytest.mark.parametrize(("value", "label"), [("yes ", "yes"), (1, "1"), (1.0, "1"), (1.5, "1.5"), (False, "False")])
def test_a_label_is_a_name(value, label):
    assert read_label(make_row(value), "column") == label


def test_a_label_that_is_missing_is_one_line():
    for value in (None, "", "  "):
        refuse(read_label, value, "the label (column 'column') is empty; fill it or remove the row")


@pytest.mark.parametrize(("value", "number"), [(" 2.5 ", 2.5), (-3, -3.0), ("1e3", 1000.0)])
def test_a_number_is_finite(value, number):
    assert read_number(make_row(value), "column") == number


def test_what_is_no_number_is_one_line():
    for value in ("two", "nan", float("inf")):
        refuse(read_number, value, f"expected a number as label, received {value!r}")


def test_an_answer_is_a_text_without_the_space_around_it():
    assert read_answer(make_row(" 4 "), "column") == "4"
    assert read_answer(make_row(4.0), "column") == "4.0"
    for value in (None, " "):
        refuse(read_answer, value, "the answer (column 'column') is empty; fill it or remove the row")
    with pytest.raises(UserError, match=r"the target \(column 'column'\) is empty"):
        read_answer(make_row(""), "column", "target")


@pytest.mark.parametrize("value", ["nan", " NaN", "<NA>", "NaT"])
def test_what_pandas_writes_for_a_gap_is_no_label_unless_it_is_known(value):
    refuse(
        read_label,
        value,
        f"the label (column 'column') is {value.strip()!r}, which stands for a missing value; fill it, remove the row, "
        "or name it in task.labels",
    )
    assert read_label(make_row(value), "column", known=(value.strip(),)) == value.strip()


def test_a_gap_of_a_table_of_numbers_is_empty():
    for read, name in ((read_label, "label"), (read_number, "label"), (read_answer, "answer")):
        refuse(read, float("nan"), f"the {name} (column 'column') is empty; fill it or remove the row")


def test_several_values_are_no_label_and_no_answer():
    for value in (["a"], {"a": 1}, b"pos", ("a", "b")):
        refuse(read_label, value, f"expected one label in column 'column', received {value!r}")
        refuse(read_answer, value, f"expected one answer in column 'column', received {value!r}")


@pytest.mark.parametrize("value", ["x" * 201, "two\nlines", "\x1b[2J", "\ud800"])
def test_a_label_is_a_short_line(value):
    refuse(read_label, value, "expected a label of one line and at most 200 characters in column 'column', received '")
