"""Mixtures of clusters against dense sums."""

import pytest
import torch
from helpers.replies import HEAD, SHAPES, are_equal, get_delta, is_close, lora_tensors, truncate_dense

from fedpeft.adapters import get_frozen_delta_names
from fedpeft.methods.common.lora_tensors import get_factors
from fedpeft.methods.common.mixture import mix_for_clients, mix_tensors, mix_updates

RESPONSIBILITIES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def clusters():
    return [{module: get_factors(lora_tensors(j), module) for module in SHAPES} for j in range(3)]


def dense(module, weights=RESPONSIBILITIES):
    parts = [get_factors(lora_tensors(j), module) for j in range(3)]
    return sum(p * b.double() @ a.double() for p, (b, a) in zip(weights.tolist(), parts, strict=True))


def test_tensors_are_summed_by_responsibility_and_keep_their_dtype():
    models = [{HEAD: lora_tensors(j)[HEAD], "b": torch.full((2,), float(j)).bfloat16()} for j in range(3)]
    mixed = mix_tensors(models, RESPONSIBILITIES)
    expected = sum(p * model[HEAD].double() for p, model in zip(RESPONSIBILITIES.tolist(), models, strict=True))
    assert mixed.keys() == {HEAD, "b"} and torch.equal(mixed[HEAD], expected.float())
    assert mixed["b"].dtype == torch.bfloat16 and mixed["b"].tolist() == [1.1015625] * 2  # 1.1 rounded once


@pytest.mark.parametrize("rank", [2, 7])
def test_updates_are_the_truncated_dense_sum(rank):
    mixed = mix_updates(clusters(), RESPONSIBILITIES, dict.fromkeys(SHAPES, rank))
    for module in SHAPES:
        assert is_close(get_delta(mixed, module), truncate_dense(dense(module), rank), 1e-4)
        assert mixed[get_frozen_delta_names(module)[0]].shape[0] == rank


def test_a_module_that_only_some_clusters_have_is_theirs_and_one_that_none_has_is_left_out():
    some = clusters()
    del some[1]["m.layer.0.q"]
    mixed = mix_updates(some, RESPONSIBILITIES, {"m.layer.0.q": 7, "m.layer.9.q": 2})
    assert set(mixed) == set(get_frozen_delta_names("m.layer.0.q"))
    rest = RESPONSIBILITIES * torch.tensor([1, 0, 1])
    assert is_close(get_delta(mixed, "m.layer.0.q"), dense("m.layer.0.q", rest), 1e-4)


def test_clients_of_equal_responsibilities_and_ranks_share_one_mixture():
    other = RESPONSIBILITIES.flip(0)
    responsibilities = {"a": RESPONSIBILITIES, "b": RESPONSIBILITIES.clone(), "c": other, "d": other}
    two, three = dict.fromkeys(SHAPES, 2), dict.fromkeys(SHAPES, 3)
    mixtures = mix_for_clients(clusters(), responsibilities, {"a": two, "b": dict(two), "c": two, "d": three})
    assert list(mixtures) == list("abcd") and mixtures["a"] is mixtures["b"]
    for client, ranks in (("a", two), ("c", two), ("d", three)):
        assert are_equal(mixtures[client], mix_updates(clusters(), responsibilities[client], ranks))
