"""What a user is told of labels that look wrong."""

import pytest

from fedpeft.tasks.label_warnings import find_label_problems

PLENTY = 50


@pytest.mark.parametrize(
    "names",
    [
        ("neg", "pos"),
        ("0", "1", "2", "10"),
        ("-1", "0", "1"),
        ("entailment", "not_entailment"),
        ("card_arrival", "card_linking", "card"),
        ("comp.os.misc", "comp.os"),
        ("v1.2", "v1.3"),
        ("no", "non-binary"),
    ],
)
def test_ordinary_labels_are_fine(names):
    assert find_label_problems(dict.fromkeys(names, PLENTY)) == []


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (
            {"NEG": 50, "POS": 40, "Positive": 3, "pos": 12},
            "labels that may be one and the same: 'POS' (40 rows), 'pos' (12 rows), 'Positive' (3 rows); "
            "if so write them alike",
        ),
        (
            {"not spam": 9, "not_spam": 8, "spam": 7},
            "labels that may be one and the same: 'not spam' (9 rows), 'not_spam' (8 rows); if so write them alike",
        ),
        (
            {"1": 9, "1.0": 8, "2": 7},
            "labels that may be one and the same: '1' (9 rows), '1.0' (8 rows); if so write them alike",
        ),
        (
            {"a": 9, "None": 8, "?": 7},
            "labels that may stand for a missing value: 'None' (8 rows), '?' (7 rows); "
            "if so fill the rows or remove them",
        ),
        (
            {"a": 9, "b": 1, "c": 0},
            "labels with too few rows for training, validation and test: 'b' (1 rows), 'c' (0 rows); "
            "add rows or leave them out",
        ),
        (
            {"0.5": 9, "1.0": 9, "2.25": 9},
            "labels that are numbers with decimals: '0.5' (9 rows), '2.25' (9 rows); "
            "`kind: regression` predicts numbers",
        ),
        (
            {"a text of more than forty characters, a": 9, "another text of more than forty characters": 9},
            "labels as long as texts: 'a text of more than forty characters, a' (9 rows), "
            "'another text of more than forty characters' (9 rows); is it another column?",
        ),
    ],
)
def test_labels_that_look_wrong_are_told_with_their_rows(counts, line):
    assert find_label_problems(counts) == [line]


def test_a_line_names_the_first_of_many():
    (line,) = find_label_problems({f"label {i}": 1 for i in range(1000)})
    assert "'label 4' (1 rows) and 995 more; add rows" in line and "label 5" not in line
