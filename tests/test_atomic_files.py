"""Files that are either the old ones or the new ones."""

import os

import pytest

from fedpeft import atomic_files
from fedpeft.atomic_files import write_atomically
from fedpeft.errors import UserError


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_atomically(target, b"new" * 1000)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path, monkeypatch):
    """A kill at any moment of a write finds either; so a reader of the old file is never disturbed."""
    target, seen = tmp_path / "file", []
    write_atomically(target, b"old")
    sync = os.fsync

    def look(descriptor):
        seen.append(target.read_bytes())
        sync(descriptor)

    monkeypatch.setattr(atomic_files.os, "fsync", look)
    with target.open("rb") as reader:
        write_atomically(target, b"new")
        assert reader.read() == b"old"
    assert seen == [b"old", b"new"]  # the data are on disk before the name changes, the folder after it
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_at_the_temporary_files_name_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"mine" and (tmp_path / "file").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]
