import pytest
import torch

from fedpeft.federation.message import Message, decode, encode, wire_size


def a_message() -> Message:
    tensors = {
        "a.weight": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "count": torch.tensor([1, 2**40]),
        "nothing": torch.zeros(0, 4),
        "strided": torch.arange(6.0).reshape(2, 3).T,
    }
    return Message("site-é", 7, tensors, {"examples": 12, "loss": 0.1 + 0.2, "kind": "x", "flag": True})


def test_decode_gives_back_every_bit():
    message = a_message()
    back = decode(encode(message))
    assert (back.client, back.round, dict(back.scalars)) == (message.client, message.round, dict(message.scalars))
    assert back.tensors.keys() == message.tensors.keys()
    for name, tensor in message.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)


@pytest.mark.parametrize("tensors", [{}, {"x": torch.zeros(1)}, a_message().tensors])
@pytest.mark.parametrize("scalars", [{}, {"loss": 1 / 3}])
def test_wire_size_is_the_encoded_length(tensors, scalars):
    message = Message("c", 1, tensors, scalars)
    assert wire_size(message) == len(encode(message))


@pytest.mark.parametrize("cut", [0, 5, 30, -1])
def test_a_cut_message_is_refused(cut):
    data = encode(a_message())
    with pytest.raises(ValueError, match="Not a fedpeft message"):
        decode(data[:cut])


def test_another_format_is_refused():
    data = encode(a_message()).replace(b'"format":1', b'"format":9')
    with pytest.raises(ValueError, match="format"):
        decode(data)
