"""What requests and answers carry beside a message: a client's state and its resources."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpeft.errors import preview
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
    return json.loads(json.dumps(asdict(resources)))  # a tuple is a list there


def unpack_resources(fields: Mapping[str, Any]) -> ClientResources:
    """The inverse. Raises ValueError, in one line, for anything that no client can have been given."""
    try:
        checked = _Resources.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "resources"
        raise ValueError(f"{where}: {problem['msg']}, received {preview(problem['input'])}") from error
    given = checked.model_dump()
    return ClientResources(**{**given, "layers": None if checked.layers is None else tuple(checked.layers)})


class _Resources(BaseModel):
    """The fields of `ClientResources` in the bounds of an experiment's `resources`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    rank: int | None = Field(None, ge=1, le=65_536)
    layers: list[Annotated[int, Field(ge=0, lt=10_000)]] | None = Field(None, min_length=1, max_length=10_000)
    density: float = Field(1.0, gt=0, le=1)
    micro_batch: int | None = Field(None, ge=1, le=65_536)
    checkpointing: bool = False
