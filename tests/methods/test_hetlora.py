"""HetLoRA: zero-padded means weighted by the norm of the product, and rows that clients give up."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    SHAPES,
    TensorModel,
    are_equal,
    build_method,
    get_product,
    is_close,
    lora_tensors,
    make_client,
    make_lora_replies,
    mean_tensor,
    start_lora,
)

from fedpeft.federation.message import Message

RANKS = (1, 2, 4, 3)
Q_A, Q_B = "m.layer.0.q.lora_A.weight", "m.layer.0.q.lora_B.weight"


@pytest.mark.parametrize("module", SHAPES)
def test_padded_factors_are_averaged_by_the_norm_of_the_product_and_cut(module):
    method, replies = build_method("hetlora"), make_lora_replies(RANKS)
    replies[2].tensors[f"{module}.lora_B.weight"] *= 5  # far from equal weights, and from those of the examples
    state, specs = start_lora(method, RANKS)
    state = method.aggregate(state, replies)
    norms = torch.stack([get_product(reply.tensors, module).norm() for reply in replies])
    d_out, d_in = SHAPES[module]
    a, b = torch.zeros(4, d_in, dtype=torch.float64), torch.zeros(d_out, 4, dtype=torch.float64)
    for reply, weight, rank in zip(replies, norms / norms.sum(), RANKS, strict=True):
        a[:rank] += weight * reply.tensors[f"{module}.lora_A.weight"].double()
        b[:, :rank] += weight * reply.tensors[f"{module}.lora_B.weight"].double()
    for spec, rank in zip(specs, RANKS, strict=True):
        sent = method.send(state, spec)
        assert is_close(sent[f"{module}.lora_A.weight"], a[:rank])
        assert is_close(sent[f"{module}.lora_B.weight"], b[:, :rank])
        assert is_close(sent[HEAD], mean_tensor(replies, HEAD))  # the head by examples


def test_products_that_are_all_zero_weigh_alike():
    method, replies = build_method("hetlora"), make_lora_replies()
    state, _ = start_lora(method)
    for reply in replies:
        reply.tensors[Q_B].zero_()
    after = method.aggregate(state, replies).tensors
    assert is_close(after[Q_A], sum(reply.tensors[Q_A].double() for reply in replies) / 4)


def test_rows_and_modules_that_nobody_of_a_round_has_stay_as_they_are():
    method, replies = build_method("hetlora"), make_lora_replies(RANKS)
    state, specs = start_lora(method, RANKS)
    for name in [name for name in replies[1].tensors if ".up." in name]:
        del replies[1].tensors[name]
    sent = method.send(method.aggregate(state, [replies[1]]), specs[2])
    assert torch.equal(sent[Q_A], torch.cat([replies[1].tensors[Q_A], state.tensors[Q_A][2:]]))
    assert torch.equal(sent[Q_B], torch.cat([replies[1].tensors[Q_B], state.tensors[Q_B][:, 2:]], 1))
    for name in ("m.layer.1.up.lora_A.weight", "m.layer.1.up.lora_B.weight"):
        assert torch.equal(sent[name], state.tensors[name])


def test_rows_that_come_back_as_zeros_are_given_up():
    method, replies = build_method("hetlora"), make_lora_replies()
    state, specs = start_lora(method)
    replies[1].tensors[Q_A][2] = 0
    replies[1].tensors[Q_B][:, 2] = 0
    replies[2].tensors[Q_A].zero_()
    state = method.aggregate(state, replies)
    ranks = [method.send(state, spec)[Q_A].shape[0] for spec in specs]
    assert ranks == [3, 2, 1, 3]  # at least one row is left
    assert method.send(state, specs[1])["m.layer.1.up.lora_A.weight"].shape[0] == 3
    later = method.aggregate(state, make_lora_replies(base=10)[:1])
    assert method.send(later, specs[1])[Q_A].shape[0] == 2  # remembered of a client that was not drawn


@pytest.mark.parametrize(("gamma", "start"), [(0.99, 3), (0.5, 2), (0.75, 3), (0.1, 1)])
def test_the_penalty_is_lambda_times_the_product_of_the_tails_norms(gamma, start):
    method = build_method("hetlora", gamma=gamma, prune_weight=0.2)
    tensors = lora_tensors(0, 4)
    model = TensorModel(lora_tensors(1, 5))  # the client holds more rows than it was sent
    term = method.penalty(model, Message("c0", 1, tensors), make_client())()
    held = lora_tensors(1, 5)
    tails = [(held[f"{m}.lora_B.weight"][:, start:4], held[f"{m}.lora_A.weight"][start:4]) for m in SHAPES]
    expected = 0.2 * sum(b.double().norm() * a.double().norm() for b, a in tails)
    torch.testing.assert_close(term.detach().double(), expected)
    term.backward()
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        if name != HEAD:
            touched = (parameter.grad if "lora_A" in name else parameter.grad.T).abs().sum(1) > 0
            assert touched.tolist() == [start <= i < 4 for i in range(5)]


@pytest.mark.parametrize("options", [{"prune_weight": 0}, {"gamma": 1}])
def test_without_a_weight_or_a_tail_there_is_no_penalty(options):
    method = build_method("hetlora", **options)
    assert method.penalty(TensorModel(lora_tensors(0)), Message("c0", 1, lora_tensors(0)), make_client()) is None


def test_the_penalty_has_a_gradient_where_b_starts_at_zero():
    tensors = lora_tensors(0)
    tensors[Q_B] = torch.zeros_like(tensors[Q_B])
    model = TensorModel(tensors)
    build_method("hetlora").penalty(model, Message("c0", 1, tensors), make_client())().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_client_gives_up_the_tails_whose_product_of_norms_fell():
    method, sent = build_method("hetlora", gamma=0.5), lora_tensors(0, 4)
    trained = {name: tensor.clone() for name, tensor in sent.items()}
    trained[Q_A][2:] *= 0.5
    trained[Q_B][:, 2:] *= 1.9  # the product of the norms falls
    trained["m.layer.1.up.lora_A.weight"][2:] *= 0.5
    trained["m.layer.1.up.lora_B.weight"][:, 2:] *= 2.1  # and here it grows
    model = TensorModel({name: add_row(tensor, name) for name, tensor in trained.items()})
    reply = method.reply(model, Message("c0", 1, sent), make_client())
    expected = dict(trained)
    expected[Q_A], expected[Q_B] = trained[Q_A].clone(), trained[Q_B].clone()
    expected[Q_A][2:] = 0
    expected[Q_B][:, 2:] = 0
    assert are_equal(reply, expected)


def add_row(tensor, name):
    """One row more than was sent, which does not travel."""
    if "lora_A" in name:
        return torch.cat([tensor, torch.ones(1, tensor.shape[1])])
    return torch.cat([tensor, torch.ones(tensor.shape[0], 1)], 1) if "lora_B" in name else tensor


def test_a_tail_that_did_not_change_is_kept_and_without_a_tail_nothing_is_given_up():
    sent = lora_tensors(0)
    for gamma in (0.5, 1):
        reply = build_method("hetlora", gamma=gamma).reply(TensorModel(sent), Message("c0", 1, sent), make_client())
        assert are_equal(reply, sent)


def test_the_papers_gamma_and_lambda():
    method = build_method("hetlora")
    assert (method.options.gamma, method.options.prune_weight, method.uses_client_state) == (0.99, 1e-3, False)
