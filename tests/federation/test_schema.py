"""What a message may hold: one line for each thing that it may not."""

import pytest
import torch

from fedpeft.federation import schema
from fedpeft.federation.schema import find_fault

GOOD = {"client": "site-é", "round_": 7, "tensors": {"a.weight": torch.zeros(2)}, "scalars": {"loss": 0.5, "kind": "x"}}


def fault_of(**changes):
    return find_fault(**{**GOOD, **changes})


def test_an_ordinary_message_has_no_fault():
    assert fault_of() is None and fault_of(tensors={}, scalars={}) is None
    assert fault_of(tensors={"a": torch.nn.Parameter(torch.zeros(1)), "b": torch.zeros(0, 3).bool()}) is None
    assert fault_of(scalars={"a": True, "b": 10**20, "c": -1e30, "d": ""}) is None


@pytest.mark.parametrize("client", [None, {}, [], True, float("nan"), 1e308, -1, "", "c" * 257, "a\nb", "\ud800", b"c"])
def test_a_client_is_a_short_text(client):
    assert fault_of(client=client).startswith("a client's id is text of 1 to 256 printable characters, received")


@pytest.mark.parametrize("round_", [None, {}, [], True, float("nan"), 1e308, -1, 0, 1.0, "1", 10**10, 10**4000])
def test_a_round_is_a_whole_number(round_):
    assert fault_of(round_=round_).startswith("a round is a whole number from 1, received")


@pytest.mark.parametrize("scalars", [None, [], 3, "x", {f"s{i}": 1 for i in range(33)}])
def test_scalars_are_few_named_values(scalars):
    assert fault_of(scalars=scalars).startswith("scalars are at most 32 named values, received")


@pytest.mark.parametrize(
    "value", [None, [], {"a": 1}, float("nan"), float("-inf"), 1e31, 10**31, "x" * 257, "a\x1b", 1j, torch.ones(1)]
)
def test_a_scalar_is_a_finite_number_or_a_short_text(value):
    assert fault_of(scalars={"loss": value}).startswith("scalar loss: expected a finite number")


@pytest.mark.parametrize("name", [None, 3, "a" * 257, "a\n"])
def test_a_scalars_name_is_a_short_text(name):
    assert fault_of(scalars={name: 1}).startswith("a scalar's name is text")


@pytest.mark.parametrize("name", [None, 3, "a" * 513, "a\n"])
def test_a_tensors_name_is_a_short_text(name):
    assert fault_of(tensors={name: torch.zeros(1)}).startswith("a tensor's name")


@pytest.mark.parametrize("tensors", [None, [], 3, {str(i): torch.zeros(0) for i in range(schema.MOST_TENSORS + 1)}])
def test_tensors_are_named_and_not_too_many(tensors):
    assert fault_of(tensors=tensors).startswith("tensors are at most 20000 named ones, received")


@pytest.mark.parametrize("value", [[0.0], 1.0, None, "x", torch.zeros(1).numpy()])
def test_a_tensor_is_one(value):
    assert fault_of(tensors={"w": value}).startswith("w: expected a tensor, received ")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.zeros(2, dtype=torch.complex64),
        lambda: torch.zeros(2).to(torch.float8_e5m2),
        lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)], layout=torch.jagged),
    ],
    ids=["meta", "sparse", "complex", "float8", "nested"],
)
def test_a_tensor_is_dense_of_known_numbers_and_in_memory(make):
    assert fault_of(tensors={"w": make()}).startswith("w: expected a")


def test_all_tensors_together_have_a_size(monkeypatch):
    monkeypatch.setattr(schema, "MOST_BYTES", 100)
    assert fault_of(tensors={str(i): torch.zeros(13).half() for i in range(3)}) is None
    fault = fault_of(tensors={str(i): torch.zeros(13) for i in range(2)})
    assert fault == "its tensors have 104 bytes, more than 100"
    assert "more than" in fault_of(tensors={"a": torch.zeros(1).expand(2**40)})  # that no memory stands behind


@pytest.mark.parametrize(
    "value", ["x" * 10**7, list(range(10**6)), {"a": {"b": 1}}, 10**4000, "\x1b[31m", object(), b"x" * 10**6]
)
def test_what_was_received_is_shown_short_and_printable(value):
    for fault in (fault_of(client=value), fault_of(scalars={"s": value}), fault_of(round_=value)):
        assert len(fault) < 200 and fault.isprintable()
