"""Alignment before the mean: no product changes, turned copies of one client are one, and the mean comes nearer."""

import pytest
import torch
from helpers.replies import (
    SHAPES,
    are_equal,
    build_method,
    get_product,
    is_close,
    largest_difference,
    lora_tensors,
    make_lora_replies,
    make_reply,
    mean_product,
    start_lora,
)

from fedpeft.methods.common.fedavg import GlobalState
from fedpeft.methods.common.rotation import align_reply

METHODS = ("fedit", "ditto", "lora_fair")


def turn(tensors, seed, noise=0.0):
    """The same products, in factors turned at random; with `noise` near them."""
    generator = torch.Generator().manual_seed(seed)
    turned = {n: t + noise * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
    for module in SHAPES:
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        q = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
        turned |= {a: q @ turned[a], b: turned[b] @ q.T}
    return turned


def measure_error(tensors, replies):
    """How far the product of the means is from the mean of the products, over all modules."""
    return float(torch.stack([(get_product(tensors, m) - mean_product(replies, m)).norm() for m in SHAPES]).norm())


@pytest.mark.parametrize("round_", [2, 3])
def test_alignment_keeps_every_product_and_the_head(round_):
    for reply in make_lora_replies(round_=round_):
        aligned = align_reply(reply, lora_tensors(99))
        assert all(is_close(get_product(aligned.tensors, m), get_product(reply.tensors, m)) for m in SHAPES)
        changed = {n for n, t in aligned.tensors.items() if not torch.equal(t, reply.tensors[n])}
        assert len(changed) == 2 * len(SHAPES)


def test_the_first_round_is_left_as_it_is():
    reply = make_lora_replies()[0]
    assert align_reply(reply, lora_tensors(99)) is reply


def test_rounds_alternate_between_the_factors():
    reference = lora_tensors(99)
    for round_, factor in ((2, "B"), (3, "A")):
        reply = make_lora_replies(round_=round_)[0]
        aligned = align_reply(reply, reference).tensors
        for module in SHAPES:
            names = [f"{module}.lora_{f}.weight" for f in (factor, "AB".replace(factor, ""))]
            correlations = [reference[n].double() @ aligned[n].double().T if "lora_A" in n
                            else reference[n].double().T @ aligned[n].double() for n in names]  # fmt: skip
            symmetric = [torch.allclose(c, c.T, atol=1e-4) for c in correlations]  # at the Procrustes optimum
            assert symmetric == [True, False]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("round_", [2, 3])
def test_turned_copies_of_one_client_are_that_client(name, round_):
    start = lora_tensors(7)
    replies = [make_reply(f"c{i}", turn(start, i), i + 1, round_) for i in range(4)]
    errors = {}
    for align in ("none", "rotation"):
        method = build_method(name, align=align)
        errors[align] = measure_error(method.aggregate(GlobalState(lora_tensors(99)), replies).tensors, replies)
    if name == "lora_fair":  # which corrects most of what is turned, and whose ridge moves even an exact mean
        assert errors["rotation"] < errors["none"]
    else:
        assert errors["rotation"] < 1e-4 and errors["none"] > 10


@pytest.mark.parametrize("round_", [2, 3])
def test_near_a_common_update_the_aligned_mean_is_never_worse(round_):
    """As the paper says of clients whose updates differ by less than their rotations, over many drawings."""
    for seed in range(30):
        common = lora_tensors(seed)
        replies = [make_reply(f"c{i}", turn(common, 100 * seed + i, noise=0.3), 1, round_) for i in range(4)]
        errors = {}
        for align in ("none", "rotation"):
            state = build_method("fedit", align=align).aggregate(GlobalState(common), replies)
            errors[align] = measure_error(state.tensors, replies)
        assert errors["rotation"] <= errors["none"], seed


@pytest.mark.parametrize("name", METHODS)
def test_each_client_counts_and_order_does_not_with_alignment(name):
    method, replies = build_method(name, align="rotation"), make_lora_replies(round_=2)
    state, _ = start_lora(method)
    whole = method.aggregate(state, replies).tensors
    assert largest_difference(whole, method.aggregate(state, replies[::-1]).tensors) < 1e-5
    for i in range(len(replies)):
        assert largest_difference(whole, method.aggregate(state, replies[:i] + replies[i + 1 :]).tensors) > 1e-3
    plain = build_method(name)
    assert plain.options.align == "none"
    assert not are_equal(plain.aggregate(state, replies).tensors, whole)
