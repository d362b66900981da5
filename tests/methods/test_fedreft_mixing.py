"""FedReFT at the client: phi_k <- (1 - lambda_k) phi_k + lambda_k z_k, and how lambda_k is chosen."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    TensorModel,
    are_equal,
    build_method,
    is_close,
    largest_difference,
    make_client,
    make_reft_replies,
    reft_tensors,
    start_reft,
)

from fedpeft.adapters import find_interventions
from fedpeft.aggregation import polar
from fedpeft.federation.message import Message
from fedpeft.methods.common.orthonormal import find_not_orthonormal
from fedpeft.methods.fedreft import LAMBDAS, align_to

OWN, OTHERS = reft_tensors(1), reft_tensors(2)


def receive(method, trained=OWN, sent=OTHERS, scores=None):
    """What the model holds after it received the others' centre, and the scalars reported."""
    model = TensorModel(reft_tensors(3))
    client = make_client(initial=reft_tensors(4), trained=trained, scores=scores)
    scalars = method.receive(model, Message("c0", 2, sent), client)
    return model.read(), scalars


def expected_mix(weight, own=OWN, retracts=True):
    mixed = {name: (1 - weight) * own[name].double() + weight * OTHERS[name].double() for name in own}
    return {name: polar(t) if retracts and name.endswith("reft_R") else t for name, t in mixed.items()}


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.9, 1.0])
def test_lambda_is_the_weight_of_the_others(weight):
    held, scalars = receive(build_method("fedreft", mixing_weight=weight))
    assert largest_difference(expected_mix(weight), held) < 1e-5
    assert scalars == {"mixing_weight": weight} and find_not_orthonormal(held) is None


@pytest.mark.parametrize(("head", "of_head"), [(0.0, 0.0), (1.0, 1.0), (None, 0.25)])
def test_the_head_may_have_a_lambda_of_its_own(head, of_head):
    held, scalars = receive(build_method("fedreft", mixing_weight=0.25, head_mixing_weight=head))
    expected = expected_mix(0.25) | {HEAD: expected_mix(of_head)[HEAD]}
    assert largest_difference(expected, held) < 1e-5 and scalars == {"mixing_weight": 0.25}


def test_half_is_the_default():
    assert receive(build_method("fedreft"))[1] == {"mixing_weight": 0.5}


def test_without_orthonormal_rows_the_mix_is_not_retracted():
    held, _ = receive(build_method("fedreft", mixing_weight=0.25, adapter={"kind": "loreft", "variant": "direft"}))
    assert largest_difference(expected_mix(0.25, retracts=False), held) < 1e-6
    assert find_not_orthonormal(held)


@pytest.mark.parametrize("mixing", ["fixed", "validation"])
def test_a_client_that_has_not_trained_takes_what_is_sent(mixing):
    held, scalars = receive(build_method("fedreft", mixing=mixing), trained=None)
    assert are_equal(held, OTHERS) and scalars == {}


@pytest.mark.parametrize("best", LAMBDAS)
def test_validation_takes_the_lambda_of_least_held_out_loss(best):
    name, seen = "m.layer.0.reft_b", []

    def score(model, split):
        assert split == "validation"
        seen.append(model.read())
        return {"loss": float((model.read()[name].double() - expected_mix(best)[name]).norm())}

    held, scalars = receive(build_method("fedreft", mixing="validation", mixing_weight=0.1), scores=score)
    assert scalars == {"mixing_weight": best} and largest_difference(expected_mix(best), held) < 1e-5
    assert len(seen) == 5 and all(find_not_orthonormal(tensors) is None for tensors in seen)


def test_the_grid_holds_the_clients_own_parameters_which_equal_losses_keep():
    assert LAMBDAS == (0, 0.25, 0.5, 0.75, 1)
    held, scalars = receive(build_method("fedreft", mixing="validation"), scores=lambda model, split: {"loss": 1.0})
    assert scalars == {"mixing_weight": 0} and largest_difference(OWN, held) < 1e-5


def test_with_alignment_the_clients_own_gauge_does_not_matter():
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    turned = dict(OWN)
    for r, w, b in find_interventions(OWN):
        turned |= {r: q @ OWN[r], w: q @ OWN[w], b: (q @ OWN[b][..., None])[..., 0]}
    with_it, without = (build_method("fedreft", align=align) for align in (True, False))
    aligned = receive(with_it)[0]
    assert largest_difference(aligned, receive(with_it, turned)[0]) < 1e-5
    assert largest_difference(receive(without)[0], receive(without, turned)[0]) > 0.1
    assert largest_difference(expected_mix(0.5, align_to(OWN, OTHERS)), aligned) < 1e-5


def test_the_client_is_left_as_it_was_and_what_it_mixes_is_its_own_last_training():
    method, own = build_method("fedreft"), {name: tensor.clone() for name, tensor in OWN.items()}
    receive(method, trained=own)
    assert are_equal(own, OWN)
    assert method.uses_client_state
    state, _ = start_reft(method)
    reply = make_reft_replies([1])[0]
    state = method.aggregate(state, [reply])
    assert is_close(state.phis["c0"]["m.layer.0.reft_W"], reply.tensors["m.layer.0.reft_W"])
