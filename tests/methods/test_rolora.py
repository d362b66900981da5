"""RoLoRA: odd rounds train B, even ones A, and every client knows all that the server does."""

import pytest
import torch
from helpers.replies import (
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    is_close,
    lora_tensors,
    make_client,
    make_lora_replies,
    mean_tensor,
    start_lora,
)

from fedpeft.federation.message import Message
from fedpeft.methods.rolora import trained_names


def names_of(factor):
    return {f"{module}.lora_{factor}.weight" for module in SHAPES}


@pytest.mark.parametrize(("round_", "frozen"), [(1, "A"), (2, "B"), (3, "A"), (4, "B")])
def test_one_factor_trains_travels_and_is_averaged(round_, frozen):
    method = build_method("rolora")
    state, _ = start_lora(method)
    expected = lora_tensors(0).keys() - names_of(frozen)
    model, message = TensorModel(lora_tensors(0)), Message("c0", round_, {})
    assert set(method.trainable_names(model, message)) == expected == method.reply_layout(state, message).keys()
    reply = method.reply(model, message, make_client())
    assert are_equal(reply, {name: t for name, t in lora_tensors(0).items() if name in expected})
    replies = make_lora_replies(round_=round_, travels=expected.__contains__)
    after = method.aggregate(state, replies)
    for name, tensor in after.tensors.items():
        assert is_close(tensor, mean_tensor(replies, name)) if name in expected else tensor is state.tensors[name]


def test_a_client_is_sent_what_it_lacks():
    method = build_method("rolora")
    state, specs = start_lora(method)
    held = {spec.id: dict(method.send(state, spec)) for spec in specs}  # what each client knows
    assert all(are_equal(tensors, lora_tensors(99)) for tensors in held.values())
    drawn = {1: [0, 1, 2, 3], 2: [0, 1], 3: [0, 2], 4: [1, 2, 3], 5: [0, 3]}
    for round_, clients in drawn.items():
        for spec in specs:
            held[spec.id] |= method.send(state, spec) if specs.index(spec) in clients else {}
        trained = trained_names(tuple(state.tensors), round_)
        replies = make_lora_replies(round_=round_, travels=trained.__contains__, base=10 * round_)
        replies = [reply for i, reply in enumerate(replies) if i in clients]
        for reply in replies:
            held[reply.client] |= reply.tensors
        state = method.aggregate(state, replies)
        for spec in specs:  # whoever is asked next would know everything
            view = held[spec.id] | method.send(state, spec)
            assert all(torch.equal(view[name], state.tensors[name]) for name in state.tensors)
    assert method.send(state, specs[0]).keys() == state.tensors.keys() - names_of("A")  # it trained in the last round
    assert method.send(state, specs[1]).keys() == state.tensors.keys()  # A of round 4, and B of round 5
    assert state.seen == {"c0": 5, "c1": 4, "c2": 4, "c3": 5}


def test_a_client_fills_in_the_factor_that_it_has():
    method, sent = build_method("rolora"), {"m.layer.0.q.lora_B.weight": lora_tensors(1)["m.layer.0.q.lora_B.weight"]}
    model = TensorModel(lora_tensors(3))
    method.receive(model, Message("c0", 2, sent), make_client(initial=lora_tensors(0), trained=lora_tensors(2)))
    assert are_equal(model.read(), lora_tensors(2) | sent)
    assert method.uses_client_state


def test_updates_are_measured_from_the_servers_tensors_and_moments_are_kept():
    method = build_method("rolora", server="adam")
    state, _ = start_lora(method)
    names = trained_names(tuple(state.tensors), 1)
    reply = make_lora_replies(travels=names.__contains__)[0]
    assert method.update_baseline(state, Message("c0", 1, {}), reply) is state.tensors
    after = method.aggregate(state, [reply])
    assert after.moments["m"].keys() == set(names)
