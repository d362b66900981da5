"""What requests and answers carry beside a message: a client's state and its resources."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fedpeft.federation.client import ClientState
from fedpeft.federation.message import Message, decode, encode
from fedpeft.resources import ClientResources

_TRAINED, _KEPT = "trained.", "kept."


def encode_state(client: str, state: ClientState) -> bytes:
    """A client's state as bytes, in the form of a message."""
    tensors = {_TRAINED + name: tensor for name, tensor in (state.trained or {}).items()}
    tensors |= {_KEPT + name: tensor.clone() for name, tensor in state.kept.items()}  # it may be one of the trained
    return encode(Message(client, 1, tensors, {"trained": state.trained is not None}))


def decode_state(data: bytes) -> ClientState:
    """The inverse of `encode_state`. Raises ValueError where the bytes are none."""
    message = decode(data)
    if type(message.scalars.get("trained")) is not bool:
        raise ValueError("not the state of a client")
    trained, kept = (
        {name.removeprefix(prefix): tensor for name, tensor in message.tensors.items() if name.startswith(prefix)}
        for prefix in (_TRAINED, _KEPT)
    )
    return ClientState(trained if message.scalars["trained"] else None, kept)


def pack_resources(resources: ClientResources) -> dict[str, Any]:
    """Resources as JSON."""
    return asdict(resources)


def unpack_resources(fields: Mapping[str, Any]) -> ClientResources:
    """The inverse. Raises TypeError for unknown fields."""
    layers = fields.get("layers")
    return ClientResources(**{**fields, "layers": None if layers is None else tuple(layers)})
