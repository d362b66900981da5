"""One LoRA at the server for clients of unlike ranks and layers."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    JOINING,
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    lora_tensors,
    make_client,
    start_lora,
)

from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo
from fedpeft.methods.common.ranks import pad_to, read_ranks, truncate_to
from fedpeft.resources import ClientResources

RANKS = (1, 4, 2, 3)


def is_cut_of(tensors, whole, rank):
    """Whether these are the first rows of A and columns of B of `whole`, and its head."""
    return tensors.keys() == whole.keys() and all(
        torch.equal(tensors[f"{module}.lora_A.weight"], whole[f"{module}.lora_A.weight"][:rank])
        and torch.equal(tensors[f"{module}.lora_B.weight"], whole[f"{module}.lora_B.weight"][:, :rank])
        and torch.equal(tensors[HEAD], whole[HEAD])
        for module in SHAPES
    )


def test_tensors_are_cut_and_padded_with_zeros():
    whole = lora_tensors(0, 4)
    assert read_ranks(whole) == dict.fromkeys(SHAPES, 4)
    cut = truncate_to(whole, dict.fromkeys(SHAPES, 2))
    assert is_cut_of(cut, whole, 2)
    padded = pad_to(cut, dict.fromkeys(SHAPES, 3))
    assert read_ranks(padded) == dict.fromkeys(SHAPES, 3) and are_equal(truncate_to(padded, read_ranks(cut)), cut)
    for module in SHAPES:
        assert not padded[f"{module}.lora_A.weight"][2:].any() and not padded[f"{module}.lora_B.weight"][:, 2:].any()
    assert truncate_to(whole, {"m.layer.1.up": 1}).keys() == {
        HEAD, "m.layer.1.up.lora_A.weight", "m.layer.1.up.lora_B.weight"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["flexlora", "hetlora"])
def test_the_server_starts_from_the_largest_and_sends_each_client_its_size(name):
    method = build_method(name)
    state, specs = start_lora(method, RANKS)
    head = lora_tensors(99, 1)[HEAD]  # of the first client; all are of one size
    assert are_equal(state.tensors, lora_tensors(99, 4) | {HEAD: head})
    for spec, rank in zip(specs, RANKS, strict=True):
        assert is_cut_of(method.send(state, spec), state.tensors, rank)


def test_modules_that_only_some_clients_adapt_are_all_at_the_server():
    method = build_method("flexlora")
    lower = {name: t for name, t in lora_tensors(1, 2).items() if ".up." not in name}
    upper = {name: t for name, t in lora_tensors(2, 3).items() if ".q." not in name}
    specs = (ClientSpec("c0", 1), ClientSpec("c1", 1))
    state = method.start(FederationInfo(specs, {"c0": lower, "c1": upper}), 0)
    assert read_ranks(state.tensors) == {"m.layer.0.q": 2, "m.layer.1.up": 3}
    assert torch.equal(state.tensors[HEAD], lower[HEAD])  # the first of equals
    assert method.send(state, specs[0]).keys() == lower.keys()
    assert method.send(state, specs[1]).keys() == upper.keys()


def test_a_joining_client_gets_what_it_can_carry_at_most_the_largest():
    method = build_method("flexlora", adapter={"r": 3})
    state, _ = start_lora(method, RANKS)
    assert is_cut_of(method.send(state, JOINING), state.tensors, 3)  # the method's own rank
    for rank, expected in ((2, 2), (9, 4)):
        spec = ClientSpec("joining", 1, ClientResources(rank=rank))
        assert is_cut_of(method.send(state, spec), state.tensors, expected)


def test_a_client_pads_what_it_received_to_its_own_rank():
    method = build_method("hetlora")
    model, client = TensorModel(lora_tensors(0, 3)), make_client(initial=lora_tensors(0, 3))
    sent = lora_tensors(1, 2)
    assert method.receive(model, Message("c0", 2, sent), client) == {}
    assert are_equal(model.read(), pad_to(sent, dict.fromkeys(SHAPES, 3)))
