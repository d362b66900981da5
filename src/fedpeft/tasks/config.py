"""What an experiment says of its data: the source, and how it is divided among clients."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TaskConfig(BaseModel):
    """Where rows come from and which columns matter."""

    model_config = ConfigDict(extra="forbid")

    source: str | list[str] | dict[str, str] = Field(
        description="a folder <task>/<split>.jsonl.gz, a JSONL / CSV / Parquet file, a list of files (one per client), "
        "files by split, a hub data set (glue/sst2), or package:DISTRIBUTION"
    )
    kind: Literal["classification"] = Field("classification", description="what is predicted and how it is scored")
    text: str = Field("text", description="the column of the text")
    text_pair: str | None = Field(None, description="the column of the second text, for pairs")
    label: str = Field("label", description="the column of the label")
    labels: list[str] | None = Field(None, description="names by index, where the column holds 0, 1, 2 ...")


class PartitionConfig(BaseModel):
    """Who holds what. Every client gets training, validation and test rows of its own."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["natural", "distinct", "mixed", "dirichlet", "shards", "quantity", "iid"] = Field(
        description="natural: by a column; distinct: one task per client; mixed: all tasks pooled and dealt evenly; "
        "dirichlet: label shares drawn per client; shards: few labels each; quantity: sizes differ; iid: alike"
    )
    clients: int | None = Field(None, ge=1, description="how many clients (natural, distinct: as many as there are)")
    column: str | None = Field(None, description="natural: the column whose values are the clients")
    alpha: float = Field(0.5, gt=0, description="dirichlet, quantity: concentration; small means unlike")
    shards_per_client: int = Field(2, ge=1, description="shards: label-sorted pieces each client gets")
    min_size: int = Field(8, ge=2, description="training rows that each client has at least")
    resplit: bool = Field(False, description="pool the source's own splits and divide anew within each client")
    validation: float = Field(0.15, gt=0, le=0.4, description="share of a client's rows, where the source has no split")
    test: float = Field(0.2, gt=0, le=0.4, description="share of a client's rows, where the source has no split")
    max_train: int | None = Field(None, ge=2, description="training rows a client may use, drawn with the seed")
    max_validation: int | None = Field(None, ge=1, description="validation rows a client may use")
    max_test: int | None = Field(None, ge=1, description="test rows a client may use")
