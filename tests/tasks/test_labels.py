"""Labels by name."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.labels import LabelIndex


def test_a_name_has_its_position():
    labels = LabelIndex(["no", "yes"], "is none of ours:")
    assert [labels.require(name, "a.csv:1") for name in ("yes", "no")] == [1, 0]


def test_an_unknown_name_is_one_line_with_its_place():
    with pytest.raises(UserError, match=r"^a\.csv:1: label 'maybe' is none of ours: no, yes$"):
        LabelIndex(["no", "yes"], "is none of ours").require("maybe", "a.csv:1")
