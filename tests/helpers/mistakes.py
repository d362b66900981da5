"""What every mistake of a user must come to."""

import pytest

from fedpeft.errors import UserError


def require_line(do, *words):
    """`do` raises a UserError of one printable line, under 500 characters, that holds the words."""
    with pytest.raises(UserError) as error:
        do()
    line = str(error.value)
    assert line.isprintable() and len(line) < 500
    assert all(word in line for word in words), line
