"""FedReFT against the equations of its docstring."""

import pytest
import torch
from methods.test_aggregation_properties import NEWCOMER, aggregated, build, distance, reft_tensors, replies_of

from fedpeft.adapters import find_interventions
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.methods.fedreft import align_to, group_names


def weiszfeld(points: torch.Tensor, steps: int = 5000) -> torch.Tensor:
    """The geometric median of (K, d) points, plainly, in float64."""
    z = points.mean(0)
    for _ in range(steps):
        inverse = 1 / (points - z).norm(dim=1).clamp_min(1e-15)
        z = (inverse[:, None] * points).sum(0) / inverse.sum()
    return z


def flat(tensors, names):
    return torch.cat([tensors[n].flatten() for n in names]).double()


@pytest.mark.parametrize("abm", ["median", "mean"])
def test_each_client_receives_the_centre_of_all_the_others(abm):
    method, replies = build("fedreft", {"abm": abm}), replies_of(reft_tensors, [1] * 6)
    for k in (0, 3):
        z = aggregated(method, reft_tensors, replies, ClientSpec(f"c{k}", 1))
        for names in group_names(z):
            others = torch.stack([flat(r.tensors, names) for i, r in enumerate(replies) if i != k])
            centre = weiszfeld(others) if abm == "median" else others.mean(0)
            kept = [n for n in names if not n.endswith("reft_R")]  # R is replaced by its polar factor afterwards
            sizes = [z[n].numel() for n in names]
            parts = dict(zip(names, centre.split(sizes), strict=True))
            assert max(float((parts[n] - z[n].double().flatten()).abs().max()) for n in kept) < 1e-5
            for n in set(names) - set(kept):
                u, _, v = torch.linalg.svd(parts[n].reshape(z[n].shape), full_matrices=False)
                assert torch.allclose(u @ v, z[n].double(), atol=1e-5)


def test_with_three_clients_the_median_is_the_mean():
    replies = replies_of(reft_tensors, [1] * 3)
    for k in range(3):
        by_median, by_mean = (
            aggregated(build("fedreft", {"abm": abm}), reft_tensors, replies, ClientSpec(f"c{k}", 1))
            for abm in ("median", "mean")
        )
        assert distance(by_median, by_mean) < 1e-6


def test_a_client_that_was_not_drawn_is_remembered():
    method = build("fedreft", {})
    specs = tuple(ClientSpec(f"c{i}", 1) for i in range(4))
    state = method.start(FederationInfo(specs, {s.id: reft_tensors(9) for s in specs}), 0)
    first, second = replies_of(reft_tensors, [1] * 4), replies_of(lambda i: reft_tensors(i + 20), [1] * 4)
    parted = method.aggregate(method.aggregate(state, first), second[:2])
    at_once = method.aggregate(state, second[:2] + first[2:])
    assert distance(method.send(parted, specs[0]), method.send(at_once, specs[0])) == 0


def test_alone_a_client_keeps_its_own_and_a_newcomer_takes_it():
    method, (only,) = build("fedreft", {}), replies_of(reft_tensors, [1])
    for receiver in (ClientSpec("c0", 1), NEWCOMER):
        assert distance(aggregated(method, reft_tensors, [only], receiver), only.tensors) < 1e-5


def test_noise_from_one_of_six_moves_the_median_little_and_the_mean_much():
    honest = replies_of(reft_tensors, [1] * 6)
    loud = {n: 100 * t.norm() * torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) / t.numel() ** 0.5
            for n, t in honest[5].tensors.items()}  # fmt: skip
    attacked = [*honest[:5], Reply("c5", 1, loud, honest[5].scalars)]
    moved = {}
    for abm in ("median", "mean"):
        method = build("fedreft", {"abm": abm})
        z, z_attacked = (aggregated(method, reft_tensors, r, ClientSpec("c0", 1)) for r in (honest, attacked))
        moved[abm] = float((z["m.layer.0.reft_W"] - z_attacked["m.layer.0.reft_W"]).norm())
    assert moved["median"] < 3 < 20 < moved["mean"]


def test_alignment_makes_the_gauge_of_a_client_irrelevant():
    """(QR, QW, Qb) is the same intervention as (R, W, b): with alignment it is the same reply."""
    plain = replies_of(reft_tensors, [1] * 4)
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    turned = dict(plain[1].tensors)
    for r, w, b in find_interventions(turned):
        turned |= {r: q @ turned[r], w: q @ turned[w], b: (q @ turned[b][..., None])[..., 0]}
    rotated = [plain[0], Reply("c1", 1, turned, plain[1].scalars), *plain[2:]]
    with_it, without = build("fedreft", {"align": True}), build("fedreft", {"align": False})
    assert distance(*(aggregated(with_it, reft_tensors, r) for r in (plain, rotated))) < 1e-5
    assert distance(*(aggregated(without, reft_tensors, r) for r in (plain, rotated))) > 0.1


def test_aligning_changes_no_function():
    phi, reference = reft_tensors(1), reft_tensors(2)
    turned = align_to(phi, reference)
    for r, w, b in find_interventions(phi):
        for left, right in ((phi[w], turned[w]), (phi[r], turned[r]), (phi[b][..., None], turned[b][..., None])):
            assert torch.allclose(phi[r].mT @ left, turned[r].mT @ right, atol=1e-5)
