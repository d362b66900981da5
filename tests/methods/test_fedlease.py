"""FedLEASE: warm-up alone, clusters, an expert for each, and a client that trains its own among all."""

from dataclasses import replace

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

from fedpeft.adapters import find_lora_pairs, get_router_name, is_head, take_head
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo
from fedpeft.methods.common.expert_tensors import COUNT, name_expert, read_expert, take_routers
from fedpeft.methods.common.several_models import select_model

EXPERTS, CHOICES = 4, 7
ROUTERS = {get_router_name(module): (CHOICES, d_in) for module, (_, d_in) in SHAPES.items()}
GROUPS = {"c0": 0, "c1": 1, "c2": 0, "c3": 0}  # planted: which client is like which


def make_warmup(client, seed=0):
    """What a client sends in the warm-up: near its group's LoRA, and a head."""
    centre, noise = lora_tensors(GROUPS[client]), lora_tensors(1000 + seed + int(client[1:]))
    return {name: tensor + 0.1 * noise[name] for name, tensor in centre.items()}


def make_tensors(seed):
    """What a client sends later: LoRA, routers and head."""
    draw = torch.Generator().manual_seed(seed)
    return lora_tensors(seed) | {name: torch.randn(shape, generator=draw) for name, shape in ROUTERS.items()}


def make_replies(make, round_, clients=GROUPS):
    return [make_reply(client, make(client), int(client[1:]) + 1, round_) for client in clients]


def start():
    """The server after its warm-up, and the specs."""
    method = build_method("fedlease", warmup=1)
    state, specs = start_experts(method, EXPERTS, CHOICES)
    return method, method.aggregate(state, make_replies(make_warmup, 1)), specs


def factors(tensors):
    return {name: tensors[name] for _, *pair in find_lora_pairs(tensors) for name in pair}


def test_clients_are_alone_until_the_warm_up_ends():
    method = build_method("fedlease", warmup=2)
    state, specs = start_experts(method, EXPERTS, CHOICES)
    first = method.aggregate(state, make_replies(make_warmup, 1))
    assert [method.send(s, specs[0]) for s in (state, first)] == [{}, {}]
    assert method.reply_layout(first, Message("c0", 2, {})).keys() == make_warmup("c0").keys()
    assert are_equal(method.update_baseline(first, Message("c1", 2, {}), make_reply("c1", {})), make_warmup("c1"))
    second = method.aggregate(first, make_replies(lambda c: make_warmup(c, 7), 2, ["c0", "c1"]))
    assert second.clusters == GROUPS and len(second.experts) == 2
    mean = sum((make_warmup("c0", 7)[HEAD], make_warmup("c2")[HEAD], make_warmup("c3")[HEAD])) / 3
    assert is_close(second.experts[0][HEAD], mean)


def test_each_client_is_sent_its_own_expert_first_and_the_mean_is_plain():
    method, state, specs = start()
    for i, spec in enumerate(specs):
        message = Message(spec.id, 2, method.send(state, spec))
        own = GROUPS[spec.id]
        for position, cluster in enumerate([own, 1 - own]):
            sent = select_model(message, position)
            members = [make_warmup(c) for c in GROUPS if GROUPS[c] == cluster]
            assert sent.keys() == factors(members[0]).keys(), i
            assert all(is_close(t, sum(m[n].double() for m in members) / len(members)) for n, t in sent.items())
        assert select_model(message, 2) == {}
        assert take_routers(message.tensors).keys() == ROUTERS.keys() and HEAD in message.tensors
        assert method.reply_layout(state, message).keys() == make_tensors(0).keys()
        assert are_equal(method.update_baseline(state, message, make_reply(spec.id, {})), state.experts[own])


def test_experts_routers_and_heads_are_averaged_over_their_own_cluster():
    method, state, _ = start()
    replies = make_replies(lambda c: make_tensors(int(c[1:])), 2)
    after = method.aggregate(state, replies)
    assert largest_difference(method.aggregate(state, replies[::-1]).experts[0], after.experts[0]) < 1e-6
    assert are_equal(after.experts[1], make_tensors(1))
    members = [make_tensors(i) for i in (0, 2, 3)]
    assert all(is_close(t, sum(m[n].double() for m in members) / 3) for n, t in after.experts[0].items())
    for i in range(4):
        changed = [*replies[:i], make_reply(f"c{i}", make_tensors(77), 1, 2), *replies[i + 1 :]]
        experts = method.aggregate(state, changed).experts
        own = GROUPS[f"c{i}"]
        assert largest_difference(experts[own], after.experts[own]) > 1e-3
        assert are_equal(experts[1 - own], after.experts[1 - own])


def test_a_cluster_without_a_reply_stays_and_strangers_join_the_largest():
    method, state, specs = start()
    assert are_equal(method.send(state, JOINING), method.send(state, specs[0]))
    after = method.aggregate(state, [make_reply("joining", make_tensors(5), 1, 2)])
    assert are_equal(after.experts[1], state.experts[1]) and are_equal(after.experts[0], make_tensors(5))
    assert after.clusters == GROUPS | {"joining": 0}
    for order in (["c1", "c0"], ["c0", "c1"]):  # of equal ones the first, in whatever order a checkpoint has them
        halves = replace(state, clusters={client: GROUPS[client] for client in order})
        assert are_equal(method.send(halves, JOINING), method.send(state, specs[0]))


def test_a_client_holds_all_experts_and_their_number():
    method, state, specs = start()
    message = Message("c1", 2, method.send(state, specs[1]))
    initial = expert_tensors(0, EXPERTS, CHOICES) | {COUNT: torch.ones(1)}
    model, client = TensorModel(initial), make_client(initial=initial)
    assert method.receive(model, message, client) == {}
    for i in range(2):
        assert are_equal(read_expert(model.read(), i), select_model(message, i))
    for i in (2, 3):
        assert are_equal(read_expert(model.read(), i), read_expert(initial, i))
    assert model.read()[COUNT].tolist() == [2.0]
    own = {*name_expert(read_expert(initial, 0), 0)}
    assert set(method.trainable_names(model, message)) == {*own, *ROUTERS, HEAD}
    assert are_equal(method.reply(model, message, client), state.experts[1])
    assert method.reply(model, message, client).keys() == method.reply_layout(state, message).keys()
    first = Message("c1", 1, {})
    assert set(method.trainable_names(model, first)) == {*own, HEAD}
    assert method.reply(model, first, client).keys() == make_warmup("c1").keys()


def test_layers_with_a_zero_in_their_number_keep_what_they_learnt():
    """The released code renames layers 10, 20, ... with the expert's number."""
    method = build_method("fedlease", warmup=1, experts=2)
    rename = lambda tensors: {n.replace("layer.1.", "layer.10."): t for n, t in tensors.items()}  # noqa: E731
    specs = tuple(ClientSpec(client, 1) for client in GROUPS)
    initial = rename(expert_tensors(0, 2, 3) | {COUNT: torch.ones(1)})
    state = method.start(FederationInfo(specs, {spec.id: initial for spec in specs}), 0)
    replies = make_replies(lambda c: rename(make_warmup(c)), 1)
    state = method.aggregate(state, replies)
    model = TensorModel(initial)
    method.receive(model, Message("c1", 2, method.send(state, specs[1])), make_client(initial=initial))
    assert are_equal(read_expert(model.read(), 0), factors(replies[1].tensors))
    assert any("layer.10." in name for name in read_expert(model.read(), 0))


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_local_training_moves_the_own_expert_router_and_head(architecture):
    method = build_method("fedlease", lr=1e-2, warmup=1, experts=3, adapter={"r": 3, "alpha": 6})
    clients, state = make_clients(method, make_classifier(architecture))
    replies = [train_client(method, state, client, model) for client, model in clients]
    for client, _ in clients:
        assert client.local.trained[COUNT].tolist() == [1.0]
        assert are_equal(take_routers(client.local.trained), take_routers(client.initial))
    state = method.aggregate(state, replies)
    for client, model in clients:
        method.receive(model, Message(client.spec.id, 2, method.send(state, client.spec)), client)
        before = model.read()
        reply = train_client(method, state, client, model, 2)
        after = client.local.trained
        changed = {n for n in after if not torch.equal(before[n], after[n])}
        frozen = {COUNT} | {n for i in (1, 2) for n in name_expert(read_expert(after, i), i)}
        assert changed.isdisjoint(frozen) and {n for n in after if is_head(n)} < changed
        assert {n for n in after if ".A0" in n or ".B0" in n} < changed
        assert after[COUNT].item() == len(state.experts)
        assert are_equal(take_head(reply.tensors), take_head(after))
