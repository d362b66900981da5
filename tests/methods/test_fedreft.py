"""FedReFT's server against the equations of its docstring."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    JOINING,
    build_method,
    is_close,
    largest_difference,
    lora_tensors,
    make_opposite_replies,
    make_reft_replies,
    make_reply,
    reft_tensors,
    start_reft,
)

from fedpeft.adapters import find_interventions
from fedpeft.aggregation import polar
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message
from fedpeft.methods.common.orthonormal import find_not_orthonormal
from fedpeft.methods.fedreft import align_to, group_names


def find_median(points: torch.Tensor, steps: int = 5000) -> torch.Tensor:
    """The geometric median of (K, d) points by plain Weiszfeld steps in float64."""
    z = points.mean(0)
    for _ in range(steps):
        inverse = 1 / (points - z).norm(dim=1).clamp_min(1e-15)
        z = (inverse[:, None] * points).sum(0) / inverse.sum()
    return z


def flatten(tensors, names):
    return torch.cat([tensors[n].flatten() for n in names]).double()


def aggregate(method, replies):
    state, _ = start_reft(method, len(replies))
    return method.aggregate(state, replies)


def send_to(method, replies, client):
    return method.send(aggregate(method, replies), ClientSpec(client, 1))


def expected_centre(tensors_of_clients, abm):
    """By group of tensors the median or mean, R retracted afterwards."""
    result = {}
    for names in group_names(tensors_of_clients[0]):
        points = torch.stack([flatten(tensors, names) for tensors in tensors_of_clients])
        centre = find_median(points) if abm == "median" else points.mean(0)
        parts = centre.split([tensors_of_clients[0][n].numel() for n in names])
        shapes = [tensors_of_clients[0][n].shape for n in names]
        result |= {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
    return {n: polar(t) if n.endswith("reft_R") else t for n, t in result.items()}


@pytest.mark.parametrize("abm", ["median", "mean"])
def test_each_client_receives_the_centre_of_all_the_others(abm):
    method, replies = build_method("fedreft", abm=abm), make_reft_replies([1] * 6)
    for k in (0, 3):
        z = send_to(method, replies, f"c{k}")
        others = [reply.tensors for i, reply in enumerate(replies) if i != k]
        assert largest_difference(expected_centre(others, abm), z) < 1e-5


@pytest.mark.parametrize("abm", ["median", "mean"])
def test_a_joining_client_receives_the_centre_of_everyone(abm):
    method, replies = build_method("fedreft", abm=abm), make_reft_replies([1] * 5)
    z = send_to(method, replies, "joining")
    assert largest_difference(expected_centre([reply.tensors for reply in replies], abm), z) < 1e-5


def test_clients_have_equal_weights_whatever_their_examples():
    method = build_method("fedreft")
    even, uneven = (aggregate(method, make_reft_replies(n)) for n in ([1] * 5, [1, 2, 30, 4, 500]))
    assert all(largest_difference(even.others[client], uneven.others[client]) == 0 for client in even.others)


def test_with_three_clients_the_median_is_the_mean():
    replies = make_reft_replies([1] * 3)
    for k in range(3):
        by_median, by_mean = (send_to(build_method("fedreft", abm=abm), replies, f"c{k}") for abm in ("median", "mean"))
        assert largest_difference(by_median, by_mean) < 1e-6


def test_a_client_that_was_not_drawn_is_remembered():
    method = build_method("fedreft")
    state, specs = start_reft(method)
    first, second = make_reft_replies([1] * 4), make_reft_replies([1] * 4, base=20)
    parted = method.aggregate(method.aggregate(state, first), second[1:3])
    at_once = method.aggregate(state, [first[0], *second[1:3], first[3]])
    assert list(parted.phis) == list(parted.others) == ["c0", "c1", "c2", "c3"]
    for spec in specs:
        assert largest_difference(method.send(parted, spec), method.send(at_once, spec)) == 0


def test_clients_are_kept_in_order_whoever_comes_first():
    method = build_method("fedreft")
    state, _ = start_reft(method)
    replies = make_reft_replies([1] * 4)
    parted = method.aggregate(method.aggregate(state, replies[2:]), replies[:2])
    assert list(parted.phis) == list(parted.others) == ["c0", "c1", "c2", "c3"]
    whole = method.aggregate(state, replies)
    assert all(largest_difference(parted.others[c], whole.others[c]) == 0 for c in whole.others)


def test_before_the_first_round_the_common_start_is_sent_and_alone_a_client_keeps_its_own():
    method = build_method("fedreft")
    state, specs = start_reft(method)
    assert method.send(state, specs[0]) is method.send(state, JOINING) is state.mean
    assert largest_difference(state.mean, reft_tensors(1000)) == 0
    (only,) = make_reft_replies([1])
    for client in ("c0", "joining"):
        assert largest_difference(send_to(method, [only], client), only.tensors) < 1e-5


def test_the_mean_of_all_is_kept_for_reference():
    method, replies = build_method("fedreft"), make_reft_replies([1, 2, 3, 4])
    state = aggregate(method, replies)
    assert method.reference_models(state).keys() == {"mean"} and method.reference_models(state)["mean"] is state.mean
    for name, tensor in state.mean.items():
        mean = sum(reply.tensors[name].double() for reply in replies) / 4
        assert is_close(tensor, polar(mean) if name.endswith("reft_R") else mean), name


@pytest.mark.parametrize(("variant", "retracts"), [("loreft", True), ("noreft", False)])
def test_every_centre_is_retracted_where_r_has_orthonormal_rows(variant, retracts):
    method = build_method("fedreft", adapter={"kind": "loreft", "variant": variant})
    state = aggregate(method, make_reft_replies([1] * 5))
    centres = [*state.others.values(), state.everyone, state.mean]
    assert [find_not_orthonormal(tensors) is None for tensors in centres] == [retracts] * 7
    reply = make_reply("c0", {name: 2 * tensor for name, tensor in reft_tensors(0).items()})
    assert (method.rejection_reason(state, reply) is not None) == retracts
    assert method.rejection_reason(state, make_reply("c0", reft_tensors(0))) is None


def test_noise_from_one_of_six_moves_the_median_little_and_the_mean_much():
    honest = make_reft_replies([1] * 6)
    loud = {n: 100 * t.norm() * torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) / t.numel() ** 0.5
            for n, t in honest[5].tensors.items()}  # fmt: skip
    attacked = [*honest[:5], make_reply("c5", loud)]
    moves = {}
    for abm in ("median", "mean"):
        method = build_method("fedreft", abm=abm)
        z, z_attacked = (send_to(method, replies, "c0") for replies in (honest, attacked))
        moves[abm] = float((z["m.layer.0.reft_W"] - z_attacked["m.layer.0.reft_W"]).norm())
    assert moves["median"] < 3 < 20 < moves["mean"]


def test_alignment_makes_the_gauge_of_a_client_irrelevant():
    """(QR, QW, Qb) is the same intervention as (R, W, b): with alignment it is the same reply."""
    plain = make_reft_replies([1] * 4)
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    turned = dict(plain[1].tensors)
    for r, w, b in find_interventions(turned):
        turned |= {r: q @ turned[r], w: q @ turned[w], b: (q @ turned[b][..., None])[..., 0]}
    rotated = [plain[0], make_reply("c1", turned), *plain[2:]]
    with_it, without = build_method("fedreft", align=True), build_method("fedreft", align=False)
    assert largest_difference(*(send_to(with_it, replies, "joining") for replies in (plain, rotated))) < 1e-5
    assert largest_difference(*(send_to(without, replies, "joining") for replies in (plain, rotated))) > 0.1


def test_aligning_changes_no_function_and_no_other_tensor():
    phi, reference = reft_tensors(1), reft_tensors(2)
    turned = align_to(phi, reference)
    assert turned.keys() == phi.keys() and turned[HEAD] is phi[HEAD]
    for r, w, b in find_interventions(phi):
        assert not is_close(turned[r], phi[r], 1e-2)
        for left, right in ((phi[w], turned[w]), (phi[r], turned[r]), (phi[b][..., None], turned[b][..., None])):
            assert torch.allclose(phi[r].mT @ left, turned[r].mT @ right, atol=1e-5)


def test_tensors_share_a_median_by_intervention_and_the_head_has_its_own():
    groups = group_names(reft_tensors(0))
    assert groups == [[f"m.layer.{i}.reft_{part}" for part in ("R", "W", "b")] for i in range(2)] + [[HEAD]]
    assert group_names([name for name in reft_tensors(0) if name != HEAD]) == groups[:2]
    assert group_names([HEAD]) == [[HEAD]] and group_names([n for n in lora_tensors(0) if n != HEAD]) == []


@pytest.mark.parametrize("abm", ["median", "mean"])
def test_opposite_rows_leave_the_last_ones(abm):
    method = build_method("fedreft", abm=abm)
    state, _ = start_reft(method, 2)
    after = method.aggregate(state, make_opposite_replies())
    for name, tensor in after.everyone.items():
        if name.endswith("reft_R"):
            assert torch.equal(tensor, state.everyone[name]) and torch.equal(after.mean[name], state.mean[name])
    assert largest_difference(method.send(after, ClientSpec("c0", 1)), make_opposite_replies()[1].tensors) < 1e-6


def test_opposite_rows_are_mixed_to_the_clients_own():
    method = build_method("fedreft")
    own, others = (reply.tensors for reply in make_opposite_replies())
    mixed = method._mix(own, others, 0.5)
    assert all(torch.equal(mixed[name], own[name]) for name in own if name.endswith("reft_R"))


def test_an_update_counts_from_the_clients_own_last_parameters():
    method = build_method("fedreft")
    state, specs = start_reft(method)
    message = Message("c0", 1, method.send(state, specs[0]))
    reply = make_reply("c0", reft_tensors(7))
    assert method.update_baseline(state, message, reply) is message.tensors  # nothing else is known of it yet
    after = method.aggregate(state, [reply, make_reply("c1", reft_tensors(8))])
    baseline = method.update_baseline(after, Message("c0", 2, method.send(after, specs[0])), reply)
    assert baseline is after.phis["c0"]
