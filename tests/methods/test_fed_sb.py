"""Fed-SB: the first round finds B and A, after it R alone travels, and its mean is exact."""

import copy

import pytest
import torch
from helpers.local_clients import CrossEntropy, make_classifier, make_clients, train_client
from helpers.replies import (
    EXAMPLES,
    HEAD,
    JOINING,
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    core_tensors,
    is_close,
    largest_difference,
    lora_tensors,
    make_client,
    make_reply,
    mean_tensor,
)
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters import find_lora_pairs, is_head
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo, get_layout
from fedpeft.methods.common.weight_gradients import draw_module_matrices, name_sketches
from fedpeft.methods.fed_sb import drop_basis

RANK = 3
BASIS = {f"{module}.{end}" for module in SHAPES for end in ("lora_A.weight", "lora_B.basis")}
R = {f"{module}.lora_B.weight" for module in SHAPES}


def make_gradient(client, module):
    """One client's mean gradient, of rank one."""
    d_out, d_in = SHAPES[module]
    draw = torch.Generator().manual_seed(100 * client + d_out)
    return torch.randn(d_out, 1, generator=draw) @ torch.randn(1, d_in, generator=draw)


def make_estimates():
    replies = []
    for client, examples in enumerate(EXAMPLES[:3]):
        tensors = drop_basis(core_tensors(99)) | {HEAD: lora_tensors(client)[HEAD]}
        for module, (d_out, d_in) in SHAPES.items():
            omega, psi = draw_module_matrices(module, d_out, d_in, RANK, 0)
            gradient = make_gradient(client, module)
            tensors |= dict(zip(name_sketches(module), (gradient @ omega, psi @ gradient), strict=True))
        replies.append(make_reply(f"c{client}", tensors, examples))
    return replies


def make_replies(round_=2):
    """R's and heads, the R's of the shape that they have."""
    replies = []
    for client, examples in enumerate(EXAMPLES):
        draw = torch.Generator().manual_seed(50 * round_ + client)
        tensors = {name: torch.randn(RANK, RANK, generator=draw) for name in sorted(R)}
        replies.append(make_reply(f"c{client}", tensors | {HEAD: lora_tensors(client)[HEAD]}, examples, round_))
    return replies


def start(**options):
    method = build_method("fed_sb", **options)
    specs = tuple(ClientSpec(f"c{i}", n) for i, n in enumerate(EXAMPLES))
    info = FederationInfo(specs, {s.id: core_tensors(99) for s in specs}, {s.id: SHAPES for s in specs})
    return method, method.start(info, 0), specs


@pytest.mark.parametrize("module", SHAPES)
def test_the_first_round_finds_the_directions_of_the_mean_gradient(module):
    method, state, specs = start()
    message = Message("c0", 1, method.send(state, specs[0]))
    assert message.tensors.keys() == R | {HEAD}
    replies = make_estimates()
    assert get_layout(replies[0].tensors) == method.reply_layout(state, message)
    after = method.aggregate(state, replies)
    mean = sum(n / 6 * make_gradient(i, module).double() for i, n in enumerate(EXAMPLES[:3]))
    b, a = after.basis[f"{module}.lora_B.basis"].double(), after.basis[f"{module}.lora_A.weight"].double()
    assert is_close(b.mT @ b, torch.eye(RANK)) and is_close(a @ a.mT, torch.eye(RANK))
    assert is_close(b @ (b.mT @ mean @ a.mT) @ a, mean)  # of rank three, so nothing is lost
    assert not any(after.tensors[name].any() for name in R)
    assert is_close(after.tensors[HEAD], mean_tensor(replies, HEAD))
    assert all(is_close(t, after.basis[n]) for n, t in method.aggregate(state, replies[::-1]).basis.items())
    for i in range(3):
        other = method.aggregate(state, replies[:i] + replies[i + 1 :])
        assert largest_difference(other.basis, after.basis) > 1e-3


def test_each_client_is_sent_the_basis_once_and_then_r_alone():
    method, state, specs = start()
    state = method.aggregate(state, make_estimates())
    assert method.send(state, specs[0]).keys() == R | BASIS | {HEAD}
    state = method.aggregate(state, make_replies()[:2])
    assert [method.send(state, spec).keys() == R | {HEAD} for spec in specs] == [True, True, False, False]
    for spec in (specs[3], JOINING):
        sent = method.send(state, spec)
        assert sent.keys() == R | BASIS | {HEAD}
        assert method.reply_layout(state, Message(spec.id, 3, sent)) == get_layout(make_replies()[0].tensors)


def test_the_mean_of_r_is_the_mean_of_the_products():
    method, state, _ = start()
    state = method.aggregate(state, make_estimates())
    replies = make_replies()
    after = method.aggregate(state, replies)
    assert all(is_close(t, mean_tensor(replies, name)) for name, t in after.tensors.items())
    for module in SHAPES:
        b, a = state.basis[f"{module}.lora_B.basis"].double(), state.basis[f"{module}.lora_A.weight"].double()
        name = f"{module}.lora_B.weight"
        products = sum(r.scalars["examples"] / 10 * b @ r.tensors[name].double() @ a for r in replies)
        assert is_close(b @ after.tensors[name].double() @ a, products)
    assert are_equal(after.basis, state.basis)
    for i in range(4):
        assert largest_difference(after.tensors, method.aggregate(state, replies[:i] + replies[i + 1 :]).tensors) > 1e-3
    assert largest_difference(after.tensors, method.aggregate(state, replies[::-1]).tensors) < 1e-6


def test_the_servers_optimiser_keeps_the_basis():
    method, state, _ = start(server="adam", server_lr=1e-4)
    state = method.aggregate(state, make_estimates())
    after = method.aggregate(state, make_replies())
    assert after.moments.keys() == {"m", "v"} and are_equal(after.basis, state.basis) and after.seen


def test_a_client_keeps_the_basis_that_it_was_sent():
    method, state, specs = start()
    state = method.aggregate(state, make_estimates())
    model, client = TensorModel(core_tensors(1)), make_client(initial=core_tensors(0))
    message = Message("c0", 2, method.send(state, specs[0]))
    method.receive(model, message, client)
    assert are_equal(model.read(), state.tensors | state.basis)
    assert set(method.trainable_names(model, message)) == R | {HEAD}
    assert are_equal(method.reply(model, message, client), state.tensors)
    client.local.trained = model.read()
    later = Message("c0", 3, make_replies()[0].tensors)
    method.receive(model, later, client)
    assert are_equal(model.read(), later.tensors | state.basis) and method.uses_client_state


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_three_rounds_of_real_clients(architecture):
    """The basis is that of the mean of the clients' dense gradients, and R is trained within it."""
    method = build_method("fed_sb", lr=1e-2, adapter={"r": RANK, "alpha": 3})
    plain = make_classifier(architecture)
    clients, state = make_clients(method, plain)
    replies = [train_client(method, state, client, model, batch_size=8) for client, model in clients]
    assert all(not t.any() for r in replies for n, t in r.tensors.items() if n.endswith("lora_B.weight"))
    state = method.aggregate(state, replies)
    means = mean_gradients(plain, [client for client, _ in clients])
    for module, (d_out, d_in, _) in state.sizes.items():
        b, a = state.basis[f"{module}.lora_B.basis"].double(), state.basis[f"{module}.lora_A.weight"].double()
        gradient = means[module].double()
        assert gradient.shape == (d_out, d_in)
        best = torch.linalg.svdvals(gradient)[:RANK].norm()
        assert float((b.mT @ gradient @ a.mT).norm()) > 0.7 * float(best)  # as near as one pass comes
    for round_ in (2, 3):
        before = state.tensors
        replies = [train_client(method, state, client, model, round_) for client, model in clients]
        for (client, model), reply in zip(clients, replies, strict=True):
            assert reply.tensors.keys() == before.keys()
            assert all(not torch.equal(t, before[n]) for n, t in reply.tensors.items())
            trained = model.read()
            assert are_equal({n: trained[n] for n in state.basis}, state.basis)
            assert client.local.trained.keys() == trained.keys()
        state = method.aggregate(state, replies)
    assert any(is_head(name) for name in state.tensors) and find_lora_pairs(state.basis | state.tensors)


def mean_gradients(plain, clients):
    """dL/dW (d_out, d_in) of all layers at the start, mean weighted by examples; one batch for each client."""
    total = sum(client.spec.examples for client in clients)
    result = {}
    for client in clients:
        dense = copy.deepcopy(plain).requires_grad_(True)
        holder = type("Holder", (), {"model": dense})()
        (batch,) = client.batches("train", 8)
        CrossEntropy().losses(holder, batch).mean().backward()
        for name, _, _ in find_lora_pairs(client.initial):
            layer = dense.get_submodule(name.removeprefix("base_model.model."))
            gradient = layer.weight.grad.T if isinstance(layer, Conv1D) else layer.weight.grad
            result[name] = result.get(name, 0) + client.spec.examples / total * gradient
    return result
