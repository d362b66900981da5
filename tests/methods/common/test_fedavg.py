"""FedAvg's mean, what FedProx, FedAdam and FedYogi make of it, and what a client fills in."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    TensorModel,
    are_equal,
    build_method,
    is_close,
    lora_tensors,
    make_client,
    make_lora_replies,
    make_reply,
    mean_tensor,
    start_lora,
)

from fedpeft.federation.message import Message
from fedpeft.methods.common.fedavg import fill_from_client


def test_the_server_sends_the_mean_weighted_by_examples():
    method, replies = build_method("fedit"), make_lora_replies()
    state, specs = start_lora(method)
    assert are_equal(method.send(state, specs[0]), lora_tensors(99))
    after = method.aggregate(state, replies)
    assert after.tensors.keys() == replies[0].tensors.keys() and after.moments == {}
    assert all(is_close(tensor, mean_tensor(replies, name)) for name, tensor in after.tensors.items())
    assert all(method.send(after, spec) is after.tensors for spec in specs)


def test_tensors_that_did_not_travel_stay():
    method = build_method("fedit")
    state, _ = start_lora(method)
    after = method.aggregate(state, make_lora_replies(travels=lambda name: name != HEAD))
    assert torch.equal(after.tensors[HEAD], state.tensors[HEAD]) and len(after.tensors) == len(state.tensors)


@pytest.mark.parametrize("name", ["fedit", "ffa_lora"])
def test_the_proximal_term_is_on_what_trains_with_the_options_weight(name):
    method = build_method(name, proximal=0.3)
    state, specs = start_lora(method)
    model, client = TensorModel(lora_tensors(99)), make_client(initial=lora_tensors(99))
    message = Message("c0", 1, method.send(state, specs[0]))
    term = method.penalty(model, message, client)
    model.write(lora_tensors(1))
    term().backward()
    trained = method.trainable_names(model, message)
    for tensor, parameter in zip(model.names, model.parameters(), strict=True):
        if tensor in trained:
            torch.testing.assert_close(parameter.grad, 0.3 * (lora_tensors(1)[tensor] - lora_tensors(99)[tensor]))
        else:
            assert parameter.grad is None
    assert build_method(name).penalty(model, message, client) is None


@pytest.mark.parametrize("rule", ["adam", "yogi"])
def test_server_optimisers_follow_their_equations(rule):
    """Four rounds; the last is almost where the server stands, so that Yogi's v grows and shrinks."""
    method = build_method("fedit", server=rule, server_lr=0.1)
    state, _ = start_lora(method)
    x, m, v = state.tensors[HEAD].double(), 0.0, torch.full_like(state.tensors[HEAD], 1e-6).double()  # v is tau^2
    grows = []
    for round_ in (1, 2, 3, 4):
        replies = make_lora_replies(round_=round_, base=10 * round_)
        if round_ == 4:
            for reply in replies:
                reply.tensors[HEAD] = (x + 1e-3).float()
        step = mean_tensor(replies, HEAD) - x
        m = 0.9 * m + 0.1 * step
        grows.append(step**2 > v)
        v = 0.99 * v + 0.01 * step**2 if rule == "adam" else v - 0.01 * step**2 * torch.sign(v - step**2)
        x = x + 0.1 * m / (v.sqrt() + 1e-3)
        state = method.aggregate(state, replies)
        assert is_close(state.tensors[HEAD], x), round_
        assert is_close(state.moments["m"][HEAD], m) and is_close(state.moments["v"][HEAD], v)
    assert grows[0].all() and not grows[3].any()


@pytest.mark.parametrize("rule", ["adam", "yogi"])
def test_the_optimisers_epsilon_and_start_matter_where_steps_are_small(rule):
    method = build_method("fedit", server=rule, server_lr=0.01)
    state, _ = start_lora(method)
    start = state.tensors[HEAD].double()
    after = method.aggregate(state, [make_reply("c0", {HEAD: (start + 2e-3).float()})])
    step = (start + 2e-3).float().double() - start
    v = 0.99 * 1e-6 + 0.01 * step**2 if rule == "adam" else 1e-6 + 0.01 * step**2
    expected = 0.01 * 0.1 * step / (v.sqrt() + 1e-3)
    torch.testing.assert_close(after.tensors[HEAD].double() - start, expected, rtol=1e-2, atol=1e-7)


def test_what_was_not_sent_is_the_clients_own():
    start, trained = lora_tensors(0), lora_tensors(1)
    sent = {HEAD: lora_tensors(2)[HEAD]}
    message = Message("c0", 1, sent)
    assert are_equal(fill_from_client(message, make_client(initial=start)), start | sent)
    assert are_equal(fill_from_client(message, make_client(initial=start, trained=trained)), trained | sent)
