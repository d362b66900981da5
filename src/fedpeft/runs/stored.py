"""What the files of a run must hold to be used: a run folder may be damaged, or a stranger's."""

import re
from typing import Annotated, Any, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from torch import Tensor

from fedpeft.federation.federation import Federation

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TENSORS = ConfigDict(arbitrary_types_allowed=True, strict=True)


def _require_text(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"has control characters, received {text[:60]!r}")
    return text


def _require_client(client: str) -> str:
    if "/" in client or "\\" in client or client[:1] in ("", "."):
        raise ValueError(f"is no client's id, received {client[:60]!r}")
    return client


Text = Annotated[str, AfterValidator(_require_text)]  # what a terminal may show
ClientId = Annotated[Text, AfterValidator(_require_client)]  # what may name a folder


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True)


class StoredOptions(_Stored):
    """A method's options, as far as tables show them."""

    lr: float


class StoredAverages(_Stored):
    """Scores of one model over the clients."""

    by_client: float
    worst_client: float
    loss: float


class StoredScores(_Stored):
    """Test scores by model."""

    personal: StoredAverages
    trained: StoredAverages | None = None


class StoredSeconds(_Stored):
    """Seconds of a run by part, and of the whole."""

    train: float
    aggregate: float
    evaluate: float
    total: float


class StoredLeftOut(_Stored):
    """The rounds in which a client's reply did not count, and the reason of the first."""

    rounds: list[int]
    reason: Text


class StoredResult(_Stored):
    """The fields of result.json that tables and comparisons read."""

    label: Text
    method: Text
    metric: Text
    options: StoredOptions
    seed: int
    rounds: int
    clients: list[ClientId] = Field(min_length=1)
    test: StoredScores
    validation: dict[str, StoredAverages]
    adapter_parameters: float
    head_parameters: float
    bytes_down: float
    bytes_up: float
    quarantined: int
    client_rounds: int = 0
    left_out: dict[ClientId, StoredLeftOut] = Field(default_factory=dict)
    peak_memory_mib: float
    seconds: StoredSeconds
    cross: dict[ClientId, dict[ClientId, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_whole(self) -> "StoredResult":
        if str(self.rounds) not in self.validation:
            raise ValueError(f"validation: the last round is missing, received {list(self.validation)[:9]}")
        if any(row.keys() != self.cross.keys() for row in self.cross.values()):
            raise ValueError("cross: not every model has a score on every client's examples")
        return self


class StoredRow(_Stored):
    """One method of a comparison."""

    label: Text


class StoredComparison(_Stored):
    """What a later comparison asks compare.json for."""

    rows: list[StoredRow]


class StoredSettings(_Stored):
    """The settings of a run, as `RunSpec.as_dict` has them: an experiment file of one's own has neither key."""

    base: str
    experiment: dict[str, Any]

    @field_validator("experiment")
    @classmethod
    def _has_one_method(cls, experiment: dict[str, Any]) -> dict[str, Any]:
        methods = experiment.get("methods")
        if not isinstance(methods, dict) or len(methods) != 1:
            raise ValueError(f"not the settings of one method, received {str(methods)[:60]}")
        return experiment


class StoredClient(BaseModel):
    """What a client keeps between rounds."""

    model_config = _TENSORS

    trained: dict[str, Tensor] | None
    kept: dict[str, Tensor]


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
        except TypeError as error:  # a field that has no default is missing
            raise ValueError(f"its state is not whole: {error}") from error


def _check_type(name: str, hint: Any, value: Any) -> None:
    try:
        TypeAdapter(hint, config=_TENSORS).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"its state's {name} is damaged: {problem['msg']}") from error
