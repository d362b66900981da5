"""FLoRA: the stacked factors are the exact mean of the products, at any ranks; every round starts afresh."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    JOINING,
    SHAPES,
    TensorModel,
    build_method,
    get_delta,
    is_close,
    lora_tensors,
    make_client,
    make_lora_replies,
    mean_product,
    mean_tensor,
    start_lora,
)

from fedpeft.adapters import get_frozen_delta_names
from fedpeft.federation.message import Message
from fedpeft.federation.method import get_layout

RANKS = (1, 2, 4, 3)


@pytest.mark.parametrize("module", SHAPES)
def test_the_stack_is_exact_at_any_rank(module):
    method = build_method("flora")
    state, specs = start_lora(method, RANKS)
    total = torch.zeros(SHAPES[module], dtype=torch.float64)
    for round_ in (1, 2, 3, 4):
        replies = make_lora_replies(RANKS, round_, base=10 * round_)
        state = method.aggregate(state, replies)
        total = total + mean_product(replies, module)
    joining = method.send(state, JOINING)
    assert is_close(get_delta(joining, module), total, 1e-4)
    assert is_close(get_delta(method.send(state, specs[1]), module), mean_product(replies, module))
    assert joining[get_frozen_delta_names(module)[0]].shape[0] <= min(SHAPES[module])


def test_a_module_is_averaged_over_the_clients_that_adapt_it():
    method, replies = build_method("flora"), make_lora_replies(RANKS)
    state, specs = start_lora(method, RANKS)
    for reply in replies[:2]:
        for name in [name for name in reply.tensors if ".q." in name]:
            del reply.tensors[name]
    after = method.aggregate(state, replies)
    sent = method.send(after, specs[3])
    assert is_close(get_delta(sent, "m.layer.0.q"), mean_product(replies[2:], "m.layer.0.q"))
    assert is_close(get_delta(sent, "m.layer.1.up"), mean_product(replies, "m.layer.1.up"))
    assert is_close(sent[HEAD], mean_tensor(replies, HEAD)) and list(after.last) == sorted(SHAPES)


def test_the_head_alone_is_sent_first_and_a_reply_is_the_clients_own_size():
    method = build_method("flora")
    state, specs = start_lora(method, RANKS)
    assert method.send(state, specs[0]).keys() == {HEAD}
    for spec, rank in zip(specs, RANKS, strict=True):
        assert method.reply_layout(state, Message(spec.id, 1, {})) == get_layout(lora_tensors(0, rank))


def test_a_client_starts_a_fresh_lora_beside_the_delta_in_every_round():
    method = build_method("flora")
    state, specs = start_lora(method)
    state = method.aggregate(state, make_lora_replies())
    starts = {}
    for round_, client in ((2, "c0"), (3, "c0"), (2, "c1")):
        model = TensorModel(lora_tensors(5))
        message = Message(client, round_, method.send(state, specs[0]))
        assert method.receive(model, message, make_client(client=client)) == {}
        held = model.read()
        assert torch.equal(held[HEAD], state.tensors[HEAD]) and not held["m.layer.1.up.lora_B.weight"].any()
        assert all(is_close(get_delta(model.frozen_delta, m), get_delta(message.tensors, m)) for m in SHAPES)
        starts[round_, client] = held["m.layer.0.q.lora_A.weight"]
    assert len({tuple(a.flatten().tolist()) for a in starts.values()}) == 3
    assert method.uses_client_state
