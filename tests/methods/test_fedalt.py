"""FedALT: the mean of the others for each client, and a client that goes on from its own."""

import pytest
import torch
from helpers.local_clients import make_classifier, make_clients, train_client
from helpers.replies import (
    HEAD,
    JOINING,
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    expert_tensors,
    is_close,
    largest_difference,
    lora_tensors,
    make_client,
    make_reply,
    start_experts,
)

from fedpeft.adapters import is_head
from fedpeft.aggregation import combine, leave_one_out_mean_mix
from fedpeft.federation.message import Message
from fedpeft.methods.common.expert_tensors import name_expert, read_expert


def make_lora(seed):
    return {name: tensor for name, tensor in lora_tensors(seed).items() if name != HEAD}


def make_replies(clients=4, round_=1):
    return [make_reply(f"c{i}", make_lora(10 * round_ + i), i + 1, round_) for i in range(clients)]


def test_a_client_receives_the_plain_mean_of_the_others_a_and_b():
    method, replies = build_method("fedalt"), make_replies()
    state, specs = start_experts(method)
    assert method.send(state, specs[0]) == {}
    state = method.aggregate(state, replies)
    for i, spec in enumerate(specs):
        sent = method.send(state, spec)
        assert sent.keys() == replies[0].tensors.keys()
        for name, tensor in sent.items():
            others = [reply.tensors[name].double() for j, reply in enumerate(replies) if j != i]
            assert is_close(tensor, sum(others) / 3), name
    everybody = method.send(state, JOINING)
    assert all(is_close(t, sum(r.tensors[n].double() for r in replies) / 4) for n, t in everybody.items())


def test_the_mean_is_that_of_fedrefts_all_but_me():
    """FedReFT's server, its weights and its sums, on the same tensors."""
    replies = make_replies()
    method = build_method("fedalt")
    state, specs = start_experts(method)
    state = method.aggregate(state, replies)
    fedreft = build_method("fedreft", abm="mean")
    for name in replies[0].tensors:
        points = [reply.tensors[name].flatten() for reply in replies]
        mix = fedreft._weigh_all_but_me(points)
        assert torch.equal(mix[:-1], leave_one_out_mean_mix(torch.ones(4)))
        for spec, centre in zip((*specs, JOINING), combine(mix, points), strict=True):
            torch.testing.assert_close(method.send(state, spec)[name].flatten(), centre, rtol=0, atol=1e-6)


def test_each_other_client_counts_its_own_and_the_order_do_not():
    method, replies = build_method("fedalt"), make_replies()
    state, specs = start_experts(method)
    whole = method.send(method.aggregate(state, replies), specs[0])
    assert are_equal(method.send(method.aggregate(state, replies[::-1]), specs[0]), whole)
    for i in range(4):
        changed = [*replies[:i], make_reply(f"c{i}", make_lora(77)), *replies[i + 1 :]]
        difference = largest_difference(method.send(method.aggregate(state, changed), specs[0]), whole)
        assert difference == 0 if i == 0 else difference > 1e-3


def test_a_client_that_was_not_drawn_is_remembered():
    method = build_method("fedalt")
    state, specs = start_experts(method)
    state = method.aggregate(state, make_replies())
    state = method.aggregate(state, make_replies(2, round_=2))
    known = [make_lora(20), make_lora(21), make_lora(12), make_lora(13)]
    for name, tensor in method.send(state, specs[0]).items():
        assert is_close(tensor, sum(lora[name].double() for lora in known[1:]) / 3)


def test_a_client_alone_has_no_rest_of_the_world():
    method = build_method("fedalt")
    state, specs = start_experts(method)
    assert method.send(method.aggregate(state, make_replies(1)), specs[0]) == {}


def test_own_lora_router_and_head_go_on_and_the_rest_is_replaced():
    method, message = build_method("fedalt"), Message("c0", 2, make_lora(1))
    for trained in (None, expert_tensors(2)):
        model = TensorModel(expert_tensors(3))
        client = make_client(initial=expert_tensors(0), trained=trained)
        assert method.receive(model, message, client) == {}
        assert are_equal(model.read(), (trained or expert_tensors(0)) | name_expert(make_lora(1), 1))
        assert are_equal(method.reply(model, message, client), read_expert(model.read(), 0))
        assert {n for n in model.names if n not in method.trainable_names(model, message)} == set(
            name_expert(make_lora(1), 1)
        )
    assert method.uses_client_state


def test_an_update_is_measured_from_the_clients_own_last_one():
    method, replies = build_method("fedalt"), make_replies()
    state, specs = start_experts(method)
    message = Message("c1", 1, {})
    assert are_equal(method.update_baseline(state, message, replies[1]), read_expert(expert_tensors(99), 0))
    state = method.aggregate(state, replies)
    message = Message("c1", 2, method.send(state, specs[1]))
    assert are_equal(method.update_baseline(state, message, replies[1]), replies[1].tensors)
    assert method.reply_layout(state, message).keys() == replies[1].tensors.keys()


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_local_training_moves_all_but_the_rest_of_the_world(architecture):
    method = build_method("fedalt", lr=1e-2, adapter={"r": 3, "alpha": 6})
    clients, state = make_clients(method, make_classifier(architecture))
    for round_ in (1, 2):
        before = {client.spec.id: client.local.trained or client.initial for client, _ in clients}
        sent = {client.spec.id: method.send(state, client.spec) for client, _ in clients}
        replies = [train_client(method, state, client, model, round_) for client, model in clients]
        state = method.aggregate(state, replies)
        for client, _ in clients:
            trained, started = client.local.trained, before[client.spec.id]
            frozen = {n for n in trained if ".A1" in n or ".B1" in n}
            others = name_expert(sent[client.spec.id], 1)
            assert are_equal({n: trained[n] for n in frozen}, {n: (started | others)[n] for n in frozen})
            still = {n for n in trained if torch.equal(trained[n], started[n])} - frozen
            if round_ == 1:  # the first step moves B and the head alone, because every B begins at zero
                assert not any(".B0" in n or is_head(n) for n in still)
            else:
                assert not still
    assert len(find_layers(replies[0].tensors)) == len(find_layers(sent["c0"])) > len(SHAPES)


def find_layers(tensors):
    return {name.rsplit(".lora_", 1)[0] for name in tensors}
