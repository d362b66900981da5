"""How a federation trains: the part of an experiment that every method shares."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpeft.federation.deployment import DeployRule


class TrainingConfig(BaseModel):
    """Rounds, local training, participation and the rules for replies. The same for every method of a comparison."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rounds: int = Field(10, ge=1, le=1_000_000, description="number of federated rounds")
    local_epochs: int = Field(1, ge=1, le=100_000, description="passes over a client's training examples in one round")
    batch_size: int = Field(16, ge=1, le=65_536, description="training examples per optimiser step")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="of local training; new in every round")
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.0, ge=0, le=1_000, description="never applied to LoReFT's R")
    max_grad_norm: float | None = Field(
        None, gt=0, le=1e9, description="gradients of a step with a larger norm are scaled down to it; null: none"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate falls, towards zero, over the steps of `schedule_span`"
    )
    schedule_span: Literal["run", "round"] = Field(
        "run", description="over all rounds, or over every round's local steps anew"
    )
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="fraction of those steps over which the learning rate rises first"
    )
    lr_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate after each round")
    participation: float = Field(1.0, gt=0, le=1, description="fraction of the clients drawn for each round")
    quorum: float = Field(0.5, gt=0, le=1, description="fraction of the round's clients whose replies must be usable")
    deadline_seconds: float | None = Field(
        None,
        gt=0,
        le=1e7,
        description="most seconds that a client's round may take, or its scores on one split, from when it begins; one "
        "that takes longer is left out of them; null: no limit, so that results depend on no machine's speed",
    )
    round_deadline_seconds: float | None = Field(
        None,
        gt=0,
        le=1e7,
        description="most seconds that the clients' part of a round may take, retries too; clients without a reply by "
        "then are left out of it; null: no limit",
    )
    over_selection: float = Field(
        0.0,
        ge=0,
        le=100,
        description="fraction more clients asked than `participation` says, to stand in for those that fail; as many "
        "usable replies are kept as without, by the order in which the clients were drawn",
    )
    retries: int = Field(
        0, ge=0, le=100, description="times that a client from which no reply came is asked again in the same round"
    )
    exclude_after: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="rounds in a row without a usable reply after which a client is not asked for a while, unless the "
        "quorum needs it; null: never",
    )
    readmit_after: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="rounds that an excluded client sits out; when it is asked again and fails, it is excluded again",
    )
    norm_limit: float | None = Field(
        10.0,
        gt=1,
        description="quarantine an update that goes more than this many times as far as the others' median, and cut "
        "down one of more than 2.5 times; null: neither",
    )
    deploy: DeployRule = Field(
        "validation",
        description="which of its models each client deploys: what it received from the server, what its last local "
        "training left (trained), or the better of both on its own validation examples",
    )
    before_aggregation: bool = Field(
        True,
        description="keep and score what each client's last local training left, too; false keeps no such models, so "
        "that every client deploys what it received: with thousands of clients it saves memory, checkpoints and time",
    )
    evaluate_every: int = Field(
        1, ge=0, le=1_000_000, description="validate every this many rounds; 0: after the last round only"
    )

    validate_candidates: bool = Field(
        False,
        description="validate what clients trained beside what they received, so that scores over the rounds are those "
        "of the models they would deploy; twice the validation",
    )

    @model_validator(mode="after")
    def _require_sgd_for_momentum(self) -> "TrainingConfig":
        if self.momentum and self.optimiser != "sgd":
            raise ValueError(f"momentum is of optimiser: sgd; {self.optimiser} has its own. Received: {self.momentum}")
        return self

    @model_validator(mode="after")
    def _require_trained_models(self) -> "TrainingConfig":
        if self.deploy == "trained" and not self.before_aggregation:
            raise ValueError("deploy: trained needs the models that before_aggregation: false does not keep; drop one")
        return self
