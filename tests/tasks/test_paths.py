"""Names of files and folders as paths."""

from pathlib import Path

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.paths import resolve_path


def test_a_relative_path_starts_at_the_base_and_a_tilde_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve_path("a/b.csv", tmp_path) == tmp_path / "a/b.csv"
    assert resolve_path("~/b.csv", tmp_path) == tmp_path / "home/b.csv"
    assert resolve_path("/none/b.csv", tmp_path) == Path("/none/b.csv")
    (tmp_path / "file").write_text("")
    assert resolve_path("file/b.csv", tmp_path) == tmp_path / "file/b.csv"  # nothing can be there: as if not there


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 300, "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("~nobody-here/a.csv", "Could not determine home directory"),
        ("a\0b", "it holds control characters"),
        ("a\x1b[2J", "it holds control characters"),
        ("circle/a.csv", "Too many levels of symbolic links"),
    ],
)
def test_what_can_name_nothing_is_one_line(tmp_path, name, reason):
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(
        UserError, match=rf"^task\.source: '.*' names nothing that can be read: {reason}; mend it$"
    ) as e:
        resolve_path(name, tmp_path)
    assert len(str(e.value)) < 250


def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path, monkeypatch):
    def stat(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(UserError, match="'a' names nothing that can be read: Permission denied"):
        resolve_path("a", tmp_path)
