"""A folder that may be anybody's: links are refused, and what cannot be read is one line."""

import os

import pytest
from pydantic import BaseModel

from fedpeft.errors import UserError
from fedpeft.runs.files import Files, report_os_errors


class Pair(BaseModel):
    a: int


@pytest.fixture
def files(tmp_path):
    (tmp_path / "file").write_text('{"a": 1, "b": 2}')
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    os.link(tmp_path / "file", tmp_path / "second name")
    return Files(tmp_path)


def test_files_are_found_and_links_are_refused_wherever_they_lead(files):
    assert files.has("file") and not files.has("missing") and not files.has(".")
    for name in ("link", "nowhere"):
        for use in (files.has, files.get_path, files.list_folder):
            with pytest.raises(UserError, match=f"{name} is a link"):
                use(name)


def test_of_a_file_that_is_changed_where_it_lies_a_second_name_is_a_link_too(files):
    assert files.has("second name")
    files.changed_in_place = ("second name",)
    with pytest.raises(UserError, match="second name is a link"):
        files.get_path("second name")


def test_a_folder_is_listed_in_order_and_a_missing_one_is_empty(files):
    assert files.list_folder() == ["file", "link", "nowhere", "second name"]
    assert files.list_folder("missing") == files.list_folder("file") == []


def test_json_is_checked_and_comes_back_whole(files, tmp_path):
    assert files.read_json("file", Pair, "") == {"a": 1, "b": 2}
    for content, problem in (
        (b'{"a": "x"}', "is damaged (a: "),
        (b"{}", "is damaged (missing key 'a')"),
        (b"[1]", "is damaged"),
        (b"{", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "cannot be read as JSON"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UserError) as error:
            files.read_json("file", Pair, "put it back")
        assert problem in str(error.value) and str(error.value).endswith("put it back")


def test_what_the_system_refuses_is_one_line(files):
    with pytest.raises(UserError, match=r"^cannot read .*: File name too long; check"):
        files.has("x" * 300)
    with (
        pytest.raises(UserError, match=r"^cannot do it: Not a directory; give another$"),
        report_os_errors("do it", "give another"),
    ):
        (files.path / "file" / "x").mkdir()
