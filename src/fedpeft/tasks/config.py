"""What an experiment says of its data: the source, and how its rows come to clients."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from fedpeft.errors import UserError, suggest
from fedpeft.tasks.kinds import find_kind, list_kinds
from fedpeft.tasks.limits import DEFAULT_MIB
from fedpeft.tasks.own_metrics import list_own_metrics
from fedpeft.tasks.presets import get_preset

_FORMS = "a folder, a file, a list of files, files by split, or a hub data set"


class TaskConfig(BaseModel):
    """Where rows come from and which columns matter."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    source: str | list[str] | dict[str, str] = Field(
        description="a folder <task>/<split>.jsonl.gz, a JSONL / CSV / Parquet file, a list of files (one per client), "
        "files by split, a hub data set (glue/sst2), or package:DISTRIBUTION"
    )
    preset: str | None = Field(None, description="a known task (gsm8k, boolq, mrpc ...) that fills in what follows")
    max_mib: int = Field(
        DEFAULT_MIB, ge=1, le=2**20, description="the most memory that the rows may take: files may be compressed"
    )
    tasks: list[str] | None = Field(None, description="of a folder of folders: which; default all")
    kind: str = Field(
        "classification", description="what is predicted and how it is scored: a file of fedpeft/tasks/kinds"
    )
    metric: str | None = Field(None, description="the score that tables show; default: the first of the kind's")
    text: str = Field("text", description="the column of the text")
    text_pair: str | None = Field(None, description="the column of the second text, for pairs")
    label: str = Field("label", description="the column of the label; regression: of the number")
    labels: list[str] | None = Field(None, description="names by index, where the column holds 0, 1, 2 ...")
    # decoders: multiple_choice and generation
    template: str = Field("{text}\n", description="the prompt around {text}; 'chat': the tokenizer's own chat template")
    template_pair: str | None = Field(None, description="the prompt of a row with a second text: {text}, {text_pair}")
    trigger: str = Field("the correct answer is ", description="multiple_choice: what is written before the choice")
    answer: str = Field("answer", description="the column of the right answer, short")
    target: str = Field("output", description="generation: the column of the text learned")
    choices: list[str] | None = Field(
        None, description="what may be the answer; default: what 'Answer format: a/b/c' names in each text"
    )
    extract: Literal["choice", "number", "letter", "text"] = Field(
        "number", description="generation: how the answer is found in what was written"
    )
    generated: bool = Field(False, description="multiple_choice: score what the model writes, too")
    max_new_tokens: int = Field(32, ge=1, le=100_000, description="most tokens written when answers are generated")

    _rows: Any = PrivateAttr(None)

    def give_rows(self, rows: Any) -> None:
        """Sets the rows by split of a source that a program gives."""
        self.source, self._rows = "in-memory", rows

    def get_rows(self) -> Any:
        """A copy of the rows by split that a program gave. Raises UserError where they were not given."""
        if self._rows is None:
            raise UserError(
                "task.source: in-memory, the data were given by a program; give them again: "
                "fedpeft.run(..., data=...), fedpeft.resume(folder, data=...)"
            )
        return {split: [dict(row) for row in rows] for split, rows in self._rows.items()}

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, config: Any) -> Any:
        if isinstance(config, dict) and config.get("preset") is not None:
            return get_preset(config["preset"], from_hub="source" not in config) | config
        return config

    @field_validator("source", mode="before")
    @classmethod
    def _require_names(cls, source: Any) -> Any:
        """Checked before pydantic does, which would say once for each of the three forms what a source is not."""
        entries = source if isinstance(source, list) else [source]
        if isinstance(source, dict):
            entries = list(source.values())
        unnamed = [entry for entry in entries if entry is not None and not isinstance(entry, str)]
        if unnamed:
            raise UserError(f"task.source: expected {_FORMS}, received {unnamed[0]!r}")
        if not any(entry and entry.strip() for entry in entries):
            raise UserError(f"task.source is empty; give {_FORMS}")
        if not all(entry and entry.strip() for entry in entries):
            raise UserError(f"task.source: one of the files is empty, received {source!r}; name it or leave it out")
        return source

    @field_validator("kind")
    @classmethod
    def _require_known_kind(cls, kind: str) -> str:
        if kind not in list_kinds():
            raise ValueError(f"unknown kind {kind!r}{suggest(kind, list_kinds())}; known: {', '.join(list_kinds())}")
        return kind

    @model_validator(mode="after")
    def _require_fitting_keys(self) -> "TaskConfig":
        kind = find_kind(self.kind)
        metrics = [*kind.metrics, *list_own_metrics()]
        if self.metric is not None and self.metric not in metrics:
            hint = suggest(self.metric, metrics)
            raise ValueError(f"{self.kind} has the metrics {', '.join(metrics)}, not {self.metric!r}{hint}")
        kind.check_config(self)
        if self.template != "chat" and "{text}" not in self.template:
            raise ValueError("the template must hold {text}")
        if self.template_pair is not None and not all(name in self.template_pair for name in ("{text}", "{text_pair}")):
            raise ValueError("template_pair must hold {text} and {text_pair}")
        return self


class PartitionConfig(BaseModel):
    """Which client gets which examples. Every client gets training, validation and test examples of its own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Literal["natural", "distinct", "mixed", "dirichlet", "shards", "quantity", "iid"] = Field(
        description="natural: by a column; distinct: one task per client; mixed: all tasks pooled and dealt evenly; "
        "dirichlet: label fractions drawn per client; shards: few labels each; quantity: sizes differ; iid: alike"
    )
    clients: int | None = Field(
        None, ge=1, le=1_000_000, description="how many clients (natural, distinct: as many as there are)"
    )
    column: str | None = Field(None, description="natural: the column whose values are the clients")
    alpha: float = Field(
        0.5, gt=0, le=1_000_000, description="dirichlet, quantity: concentration; small means unlike clients"
    )
    shards_per_client: int = Field(2, ge=1, le=100_000, description="shards: label-sorted pieces each client gets")
    min_size: int = Field(8, ge=2, description="training examples that each client must have")
    resplit: bool = Field(False, description="pool the source's own splits and divide anew within each client")
    validation: float = Field(
        0.15, gt=0, le=0.4, description="fraction of a client's examples, where there is no such split"
    )
    test: float = Field(0.2, gt=0, le=0.4, description="fraction of a client's examples, where there is no such split")
    max_train: int | None = Field(None, ge=2, description="training examples a client may use, drawn with the seed")
    max_validation: int | None = Field(None, ge=1, description="validation examples a client may use")
    max_test: int | None = Field(None, ge=1, description="test examples a client may use")

    @property
    def is_dealt(self) -> bool:
        """Whether rows are dealt to clients by a draw, not by a column that names them."""
        return self.kind not in ("natural", "distinct")
