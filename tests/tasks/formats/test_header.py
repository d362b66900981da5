"""Names of columns."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.formats.header import require_distinct


def test_names_are_distinct_but_for_columns_without_one():
    require_distinct(["text", "", "label", ""], "a.csv:1")
    with pytest.raises(UserError, match=r"^task\.source: a\.csv:1: the header holds 'b' twice; rename one"):
        require_distinct(["a", "b", "b"], "a.csv:1")
