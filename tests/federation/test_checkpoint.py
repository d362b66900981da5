import os
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_any_flipped_bit_is_noticed(tmp_path, dtype):
    save_checkpoint(tmp_path / "c", {"a": torch.ones(3, dtype=dtype), "scalar": torch.tensor(1.0), "round": 12})
    content = (tmp_path / "c").read_bytes()
    for place, bit in ((len(content) - 1, 1), (len(content) - 5, 64), (content.index(b"12}"), 1)):
        damaged = bytearray(content)
        damaged[place] ^= bit
        (tmp_path / "c").write_bytes(damaged)
        with pytest.raises(UserError, match="it is damaged: its digest is another"):
            load_checkpoint(tmp_path / "c")
    (tmp_path / "c").write_bytes(content)
    assert load_checkpoint(tmp_path / "c")["round"] == 12


def test_a_checkpoint_without_a_digest_is_read(tmp_path):
    """Earlier versions wrote none."""
    (tmp_path / "c").write_bytes(save({}, metadata={"tree": '{"round": 3}'}))
    assert load_checkpoint(tmp_path / "c") == {"round": 3}


@pytest.mark.parametrize("tree", ["", "{", '{"@tensor": "0"}', '{"@record": 3}', "[" * 100_000, "1" * 5_000])
def test_a_tree_that_is_none_is_one_line(tmp_path, tree):
    (tmp_path / "c").write_bytes(save({}, metadata={"tree": tree}))
    with pytest.raises(UserError, match="not a fedpeft checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_a_link_at_the_temporary_files_name_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"mine" and (tmp_path / "file").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]


def test_a_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        load_checkpoint(tmp_path / "c")
