"""One process at a time; the lock of one that is gone binds nobody."""

import os
import re
import signal
import time

import pytest

from fedpeft.errors import UserError
from fedpeft.runs.lock import LOCK, lock_folder


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path):
    folder = tmp_path / "a/b"
    with lock_folder(folder):
        (folder / "file").write_text("")
        with pytest.raises(UserError) as error, lock_folder(folder):
            pass
        who = rf"process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        assert re.search(rf"{folder} is in use by {who}", str(error.value))
        with lock_folder(tmp_path):  # another folder
            pass
    assert os.listdir(folder) == ["file"]
    with lock_folder(folder):
        pass


def test_a_folder_that_stays_empty_is_gone_again(tmp_path):
    with pytest.raises(RuntimeError), lock_folder(tmp_path / "run"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_process_that_was_killed_binds_nobody(tmp_path):
    child = os.fork()
    if child == 0:
        with lock_folder(tmp_path):
            time.sleep(60)
        os._exit(1)
    while not (tmp_path / LOCK).exists() or not (tmp_path / LOCK).stat().st_size:
        time.sleep(0.001)
    with pytest.raises(UserError, match=f"in use by process {child} on"), lock_folder(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / LOCK).exists()
    with lock_folder(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()


def test_a_file_that_its_holder_removed_meanwhile_is_no_lock(tmp_path, monkeypatch):
    """Between opening the file and locking it its holder may have ended, and another process made a new one."""
    from fedpeft.runs import lock

    flock, calls = lock.fcntl.flock, []

    def slow(descriptor, operation):
        if not calls:
            (tmp_path / LOCK).unlink()
            (tmp_path / LOCK).write_text("of another process")
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", slow)
    with lock_folder(tmp_path):
        assert len(calls) == 2 and (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / LOCK).symlink_to(tmp_path / "file")
    for folder, problem in (("file/run", "Not a directory"), ("linked", "symbolic links"), ("x" * 300, "too long")):
        with pytest.raises(UserError, match=f"cannot write to .*{problem}"), lock_folder(tmp_path / folder):
            pass
    assert (tmp_path / "file").read_text() == ""
