"""No more of a file is read than an honest one has."""

import pytest

from fedpeft.errors import UserError
from fedpeft.small_files import read_small_file


def test_up_to_the_limit_a_file_is_read_and_beyond_it_refused(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"x" * (1 << 20))
    assert read_small_file(file, 1 << 20) == b"x" * (1 << 20)
    with file.open("ab") as opened:
        opened.truncate(1 << 40)  # a hole: nobody reads a terabyte of it
    with pytest.raises(UserError, match=rf"^{file} holds more than 1 MiB; give a smaller one$"):
        read_small_file(file, 1 << 20, "give a smaller one")


def test_one_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read: No such file or directory$"):
        read_small_file(tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot be read: Is a directory$"):
        read_small_file(tmp_path)
