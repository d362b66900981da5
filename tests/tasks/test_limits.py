"""The limit of what a source may take."""

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.limits import SizeLimit


def test_all_that_is_added_counts_up_to_the_limit():
    limit = SizeLimit(2)
    for size in (2**20, 2**20 - 1, 1):
        limit.add(size, "a.csv")
    with pytest.raises(
        UserError, match=r"^task\.source: b\.csv: its rows would take more than 2 MiB .* task\.max_mib$"
    ):
        limit.add(1, "b.csv")
