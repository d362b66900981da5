"""Labels by name."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.labels import LabelIndex, require_labels, sort_labels


def test_a_name_has_its_position():
    labels = LabelIndex(["no", "yes"], "is none of ours:")
    assert [labels.require(name, "a.csv:1") for name in ("yes", "no")] == [1, 0]


def test_an_unknown_name_is_one_line_with_its_place():
    with pytest.raises(UserError, match=r"^a\.csv:1: label 'maybe' is none of ours: no, yes$"):
        LabelIndex(["no", "yes"], "is none of ours").require("maybe", "a.csv:1")


def test_whole_numbers_are_sorted_by_size_and_others_by_their_characters():
    assert sort_labels({"10", "9", "-1"}) == ["-1", "9", "10"]
    for names in (["--5", "10", "9"], ["10", "9", "²"], ["10", "9", "9" * 5000]):
        assert sort_labels(names) == sorted(names)


def test_a_column_of_texts_or_numbers_is_no_column_of_labels():
    require_labels([str(i) for i in range(50)], 100, "label")
    require_labels([str(i) for i in range(20)], 20, "label")
    with pytest.raises(
        UserError, match=r"^task\.label: column 'score' holds 51 different values in 100 rows, such as '0'"
    ):
        require_labels([str(i) for i in range(51)], 100, "score")
    with pytest.raises(UserError, match=r"column 'label' holds one value only \(pos\); nothing to learn$"):
        require_labels(["pos"], 100, "label")
