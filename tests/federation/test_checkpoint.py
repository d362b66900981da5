import os
from dataclasses import dataclass

import pytest
import torch

from fedpeft.errors import UserError
from fedpeft.federation import checkpoint
from fedpeft.federation.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from fedpeft.federation.state_tree import flatten, trees_equal


@dataclass(frozen=True)
class State:
    tensors: dict
    count: int


def test_a_tree_comes_back_to_the_bit(tmp_path):
    shared = torch.randn(3, generator=torch.Generator().manual_seed(0))
    tree = {
        "state": State({"a": shared, "b": shared[1:], "half": torch.ones(2, dtype=torch.bfloat16)}, 3),
        "plain": [1, 2.5, "x", None, True, ("t", [shared])],
        "empty": {},
    }
    save_checkpoint(tmp_path / "c", tree)
    back = load_checkpoint(tmp_path / "c")
    assert trees_equal(back, {**tree, "state": {"tensors": tree["state"].tensors, "count": 3}})
    assert trees_equal(State(**back["state"]), tree["state"])
    assert isinstance(back["plain"][5], tuple)


def test_a_state_holds_plain_values_only():
    with pytest.raises(TypeError, match="Received: set"):
        flatten({"x": {1, 2}})
    with pytest.raises(TypeError, match="string keys"):
        flatten({1: 2})


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
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

    monkeypatch.setattr(checkpoint.os, "fsync", look)
    with target.open("rb") as reader:
        write_atomically(target, b"new")
        assert reader.read() == b"old"
    assert seen == [b"old", b"new"]  # the data are on disk before the name changes, the folder after it
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 100])
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(UserError, match="not a fedpeft checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_a_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        load_checkpoint(tmp_path / "c")
