"""What a checkpoint must hold to go on from it: it may be damaged, or a stranger's."""

from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from fedpeft.federation.federation import Federation
from fedpeft.federation.policy import Standing
from fedpeft.runs.stored import StoredSeconds, StoredSettings

_TENSORS = ConfigDict(arbitrary_types_allowed=True, strict=True)


class StoredClient(BaseModel):
    """What a client keeps between rounds."""

    model_config = _TENSORS

    trained: dict[str, Tensor] | None
    kept: dict[str, Tensor]


class StoredStanding(BaseModel):
    """How a client did in the latest rounds that asked it."""

    model_config = ConfigDict(strict=True)

    failures: int = Field(ge=0)
    excluded_until: int = Field(ge=0)


class StoredLogs(BaseModel):
    """The length of each log in bytes; no other file is ever cut."""

    model_config = ConfigDict(strict=True, extra="forbid")

    metrics: int = Field(ge=0, alias="metrics.jsonl")
    timings: int = Field(ge=0, alias="timings.jsonl")


class RunCheckpoint(BaseModel):
    """A run as it stood after a round."""

    model_config = _TENSORS

    round: int = Field(ge=0)
    seconds: StoredSeconds
    state: dict[str, Any]
    clients: dict[str, StoredClient]
    standings: dict[str, StoredStanding] = Field(default_factory=dict)  # earlier versions excluded nobody
    logs: StoredLogs
    settings: StoredSettings | None = None  # whose run it is; None in checkpoints of earlier versions
    fingerprint: str | None = None  # and what that run saw

    def restore_server(self, federation: Federation) -> None:
        """Puts the round and the server's state into a federation of the same run.

        Raises ValueError where the state is not of the federation's method.
        """
        kind = type(federation.state)
        hints = get_type_hints(kind)
        if unknown := self.state.keys() - hints.keys():
            raise ValueError(f"its state is of another method, it has {', '.join(sorted(unknown)[:9])}")
        for name, value in self.state.items():
            _check_type(name, hints[name], value)
        try:
            federation.state, federation.round = kind(**self.state), self.round
            federation.standings = {name: Standing(**vars(standing)) for name, standing in self.standings.items()}
        except TypeError as error:  # a field that has no default is missing
            raise ValueError(f"its state is not whole: {error}") from error


def _check_type(name: str, hint: Any, value: Any) -> None:
    try:
        TypeAdapter(hint, config=_TENSORS).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"its state's {name} is damaged: {problem['msg']}") from error
