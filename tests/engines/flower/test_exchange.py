"""A client's state and its resources, there and back."""

import json

import pytest
import torch

from fedpeft.engines.flower.exchange import decode_state, encode_state, pack_resources, unpack_resources
from fedpeft.federation.client import ClientState
from fedpeft.federation.message import Message, encode
from fedpeft.resources import ClientResources


def test_a_state_comes_back_to_the_bit_with_its_dtypes():
    state = ClientState({"x": torch.tensor([1.5, float("-0.0")], dtype=torch.bfloat16)}, {"n": torch.tensor(7)})
    back = decode_state(encode_state("a", state))
    assert back.trained["x"].dtype is torch.bfloat16 and torch.equal(back.trained["x"], state.trained["x"])
    assert back.kept["n"].dtype is torch.int64 and int(back.kept["n"]) == 7


@pytest.mark.parametrize("trained", [None, {}])
def test_a_client_that_was_never_trained_is_no_client_that_trained_nothing(trained):
    assert decode_state(encode_state("a", ClientState(trained))).trained == trained


def test_a_client_may_keep_one_of_the_tensors_that_it_trained():
    tensor = torch.ones(3)
    back = decode_state(encode_state("a", ClientState({"x": tensor}, {"x": tensor, "first": tensor[:2]})))
    assert torch.equal(back.kept["x"], tensor) and back.kept["first"].shape == (2,)


def test_bytes_that_are_no_state_are_refused():
    with pytest.raises(ValueError, match="Not a fedpeft message"):
        decode_state(b"no state")
    with pytest.raises(ValueError, match="not the state of a client"):
        decode_state(encode(Message("a", 1, {"x": torch.ones(2)})))


def test_resources_come_back():
    for resources in (ClientResources(), ClientResources(4, (1, 2), 0.5, 8, True)):
        assert unpack_resources(json.loads(json.dumps(pack_resources(resources)))) == resources


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory": 1}, "memory: Extra inputs are not permitted, received 1"),
        ({"rank": 10**9}, "rank: Input should be less than or equal to 65536, received 1000000000"),
        ({"rank": 0}, "rank: .* received 0"),
        ({"rank": "4"}, "rank: .* received '4'"),
        ({"layers": []}, "layers: "),
        ({"layers": [-1]}, "layers.0: .* received -1"),
        ({"density": float("nan")}, "density: .* received nan"),
        ({"micro_batch": True}, "micro_batch: .* received True"),
        ([1], "resources: .* received"),
    ],
)
def test_resources_that_no_client_can_have_are_refused(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        unpack_resources(fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
