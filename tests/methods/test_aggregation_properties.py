"""What every method that aggregates must pass: each client changes the result, order does not, copies are weights."""

import pytest
import torch

from fedpeft.adapters import find_interventions
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.methods import find_method

D, RANK = 24, 3


def reft_tensors(seed: int, spread: float = 0.3) -> dict[str, torch.Tensor]:
    """Two interventions and a head near a common start, R orthonormal."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.Generator().manual_seed(999)
    tensors = {}
    for layer in range(2):
        for part, shape in (("R", (1, RANK, D)), ("W", (1, RANK, D)), ("b", (1, RANK))):
            base = torch.randn(shape, generator=start)
            tensors[f"m.layer.{layer}.reft_{part}"] = base + spread * torch.randn(shape, generator=draw)
        r = f"m.layer.{layer}.reft_R"
        tensors[r] = torch.linalg.qr(tensors[r].mT).Q.mT.contiguous()
    tensors["m.classifier.weight"] = torch.randn(2, D, generator=start) + spread * torch.randn(2, D, generator=draw)
    return tensors


def lora_tensors(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "m.q.lora_A.weight": torch.randn(RANK, D, generator=draw),
        "m.q.lora_B.weight": torch.randn(7, RANK, generator=draw),
        "m.classifier.weight": torch.randn(2, D, generator=draw),
    }


CASES = [
    ("fedit", {}, lora_tensors),
    ("fedavg_loreft", {}, reft_tensors),
    ("fedavg_loreft", {"retract": False}, reft_tensors),
    ("fedreft", {"abm": "median"}, reft_tensors),
    ("fedreft", {"abm": "mean"}, reft_tensors),
    ("fedreft", {"abm": "median", "align": True}, reft_tensors),
]
case = pytest.mark.parametrize(("name", "options", "tensors"), CASES)
NEWCOMER = ClientSpec("newcomer", 1)


def build(name, options):
    kind = find_method(name)
    return kind(kind.Options(**options))


def replies_of(tensors, examples):
    return [Reply(f"c{i}", 1, tensors(i), {"examples": n, "loss": 0.0}) for i, n in enumerate(examples)]


def aggregated(method, tensors, replies, receiver=NEWCOMER):
    specs = tuple(ClientSpec(r.client, 1) for r in replies)
    state = method.start(FederationInfo(specs, {s.id: tensors(1000) for s in specs}), 0)
    return method.send(method.aggregate(state, replies), receiver)


def distance(a, b):
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@case
def test_each_client_changes_the_result(name, options, tensors):
    method, replies = build(name, options), replies_of(tensors, [4, 4, 4, 4, 4])
    whole = aggregated(method, tensors, replies)
    for i in range(len(replies)):
        assert distance(whole, aggregated(method, tensors, replies[:i] + replies[i + 1 :])) > 1e-3
        moved = replies_of(tensors, [4, 4, 4, 4, 4])
        moved[i] = Reply(f"c{i}", 1, tensors(i + 50), moved[i].scalars)
        assert distance(whole, aggregated(method, tensors, moved)) > 1e-3


@case
def test_order_does_not(name, options, tensors):
    method, replies = build(name, options), replies_of(tensors, [1, 2, 3, 4, 5])
    for receiver in (NEWCOMER, ClientSpec("c2", 1)):
        forwards = aggregated(method, tensors, replies, receiver)
        assert distance(forwards, aggregated(method, tensors, replies[::-1], receiver)) < 1e-6


@case
def test_copies_of_one_client_give_that_client(name, options, tensors):
    method = build(name, options)
    replies = [Reply(f"c{i}", 1, tensors(3), {"examples": 2, "loss": 0.0}) for i in range(4)]
    result = aggregated(method, tensors, replies)
    if options.get("align"):  # the same interventions, in the gauge of reference
        for r, w, b in find_interventions(result):
            for part in (w, b):
                x, y = result[part].flatten(2) if part == w else result[part][..., None], tensors(3)[part]
                y = y if part == w else y[..., None]
                assert torch.allclose(result[r].mT @ x, tensors(3)[r].mT @ y, atol=1e-5)
    else:
        assert distance(result, tensors(3)) < 1e-5


@pytest.mark.parametrize("name", ["fedit", "fedavg_loreft"])
def test_examples_are_weights(name):
    tensors = lora_tensors if name == "fedit" else reft_tensors
    method = build(name, {} if name == "fedit" else {"retract": False})
    result = aggregated(method, tensors, replies_of(tensors, [1, 3]))
    for key, value in result.items():
        expected = (tensors(0)[key].double() + 3 * tensors(1)[key].double()) / 4
        assert torch.allclose(value.double(), expected, atol=1e-6)


@case
def test_what_is_sent_has_orthonormal_rows(name, options, tensors):
    if name == "fedit" or options.get("retract") is False:
        pytest.skip("no orthonormal rows in this case")
    result = aggregated(build(name, options), tensors, replies_of(tensors, [4, 4, 4, 4]))
    for r, _, _ in find_interventions(result):
        gram = result[r] @ result[r].mT
        assert torch.allclose(gram, torch.eye(RANK).expand_as(gram), atol=1e-5)
