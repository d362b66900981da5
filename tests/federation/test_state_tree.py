"""Trees that checkpoints hold: what they may hold, keys that look like our own marks, and when two are equal."""

from dataclasses import dataclass

import pytest
import torch

from fedpeft.federation.state_tree import flatten, iterate_tensors, trees_equal, unflatten


@dataclass(frozen=True)
class State:
    tensors: dict
    count: int = 3


def test_a_dataclass_comes_back_as_its_fields_and_a_tuple_as_one():
    structure, tensors = flatten({"state": State({"w": torch.ones(2)}), "pair": (1, None, [True, "x", 0.5])})
    tree = unflatten(structure, tensors)
    assert tree["state"]["count"] == 3 and torch.equal(tree["state"]["tensors"]["w"], torch.ones(2))
    assert tree["pair"] == (1, None, [True, "x", 0.5])


def test_a_tensor_held_twice_is_written_once_and_views_of_one_storage_apart():
    whole = torch.arange(6.0)
    _, tensors = flatten([whole, whole, whole[2:4], whole.view(2, 3).T])
    assert len(tensors) == 3 and tensors["0"] is not tensors["1"]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 3
    assert tensors["2"].is_contiguous()


@pytest.mark.parametrize(("tree", "words"), [({"f": len}, "plain values"), ({1: 2}, "string keys"), ({1, 2}, "plain")])
def test_anything_else_is_refused(tree, words):
    with pytest.raises(TypeError, match=words):
        flatten(tree)


def test_every_tensor_of_a_tree_is_found():
    w = [torch.full((1,), float(i)) for i in range(4)]
    tree = {"state": State({"a": w[0], "b": (w[1], [w[2]])}), "c": w[3], "d": [1, "x", None, State]}
    assert [float(tensor) for tensor in iterate_tensors(tree)] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("key", ["@tensor", "@tuple", "@record", "\\@tensor", "\\", "\\\\@tuple", "site"])
def test_a_client_may_be_called_as_our_marks_are(key):
    tree = {key: {"loss": 1.0, "w": torch.ones(2)}, "other": (1, 2)}
    assert trees_equal(unflatten(*flatten(tree)), tree)
    plain = {key: "text"}
    assert unflatten(*flatten(plain)) == plain


def test_trees_differ_by_structure_or_by_a_value():
    tree = {"a": torch.ones(2), "b": 1}
    assert trees_equal(tree, {"a": torch.ones(2), "b": 1})
    assert not trees_equal(tree, {"a": torch.tensor([1.0, 2.0]), "b": 1})
    assert not trees_equal(tree, {"a": torch.ones(2), "b": 2})


@pytest.mark.parametrize(
    "structure",
    [
        {"@tensor": "1"},
        {"@tensor": ["0"]},
        {"@tensor": None},
        {"@tuple": 3},
        {"@tuple": {"a": 1}},
        {"@record": [1]},
        {"@record": None},
        [{"a": {"@tuple": "text"}}],
    ],
)
def test_what_flatten_does_not_make_is_a_value_error(structure):
    with pytest.raises(ValueError, match="it "):
        unflatten(structure, {"0": torch.ones(1)})
