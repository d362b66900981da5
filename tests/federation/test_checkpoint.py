from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save

from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import load_checkpoint, save_checkpoint
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


def test_a_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        load_checkpoint(tmp_path / "c")
