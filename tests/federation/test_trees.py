"""Trees that checkpoints hold: keys that look like our own marks, and when two are equal."""

import pytest
import torch

from fedpeft.federation.state_tree import flatten, trees_equal, unflatten


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
