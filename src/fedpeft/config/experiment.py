"""The experiment as typed models: every key of the YAML file, with its bounds."""

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from fedpeft.backbones import DTYPES
from fedpeft.config.tracking import TrackingConfig
from fedpeft.config.validation import first_error
from fedpeft.engines import list_engines
from fedpeft.engines.flower.config import FlowerConfig
from fedpeft.errors import UserError, preview, suggest
from fedpeft.federation.method import Method
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import find_method, list_built_in, list_methods
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.kinds import find_kind

# Bounds far above any use, so that a slip of the finger is told at once and not by the machine.
MAX_MIB = 2.0**30  # a PiB
MAX_SECONDS = 1e9
MAX_SEED = 2**31 - 1
ALL_GPUS = "cuda:all"


class ModelConfig(BaseModel):
    """The frozen backbone that every client holds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(description="hub id, local folder (relative: to this file), or package:DISTRIBUTION")
    pooling: Literal["mean", "cls", "last"] = Field("mean", description="what the classification head reads")
    max_length: int = Field(64, ge=4, le=1_000_000, description="tokens kept of each text; default for decoders: 512")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the frozen weights")
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="what the backbone multiplies matrices in; fast where the processor has it; null: as stored",
    )
    device: str | list[str] = Field(
        "cpu",
        description="where the model lives: cpu, cuda, cuda:1 ...; several of one type, [cuda:0, cuda:1], or cuda:all: "
        "a copy on each, which train clients side by side",
    )
    quantization: Literal["8bit", "4bit"] | None = Field(None, description="of the frozen weights, by bitsandbytes")
    device_map: str | dict[str, int | str] | None = Field(
        None, description="places the model on several devices, as in transformers; auto: it chooses"
    )

    _module: Any = PrivateAttr(None)

    def give_module(self, module: Any, tokenizer: Any) -> None:
        """Sets the model that a program gives, with its tokenizer, in place of one that is loaded by name."""
        self.name, self._module = "in-memory", (module, tokenizer)
        self.device = str(next(module.parameters()).device)

    @property
    def module(self) -> Any:
        """The model and the tokenizer that a program gave, or None. Raises UserError where they are missing."""
        if self.name == "in-memory" and self._module is None:
            raise UserError(
                "model.name: in-memory, the model was given by a program; give it again with its tokenizer: "
                "fedpeft.run(..., model=..., tokenizer=...), fedpeft.resume(folder, model=..., tokenizer=...)"
            )
        return self._module

    @model_validator(mode="after")
    def _require_devices_of_one_type(self) -> "ModelConfig":
        if isinstance(self.device, str) and self.device != ALL_GPUS:
            return self
        if isinstance(self.device, list):
            types = {device.partition(":")[0] for device in self.device}
            if len(types) != 1 or ALL_GPUS in self.device:
                raise ValueError(
                    f"device: one, or several of one type, [cuda:0, cuda:1]; received {preview(self.device)}"
                )
        for name in ("quantization", "device_map"):
            if getattr(self, name) is not None:
                raise ValueError(f"device: several, received {preview(self.device)}, cannot be joined with {name}")
        return self

    @property
    def devices(self) -> list[str]:
        """The devices that `device` names, the first first."""
        if self.device == ALL_GPUS:
            return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cuda"]
        return [self.device] if isinstance(self.device, str) else self.device

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What `autocast` names."""
        return None if self.autocast is None else DTYPES[self.autocast]


class ResourceLevel(BaseModel):
    """What a group of clients can carry; what is left out stays as the method's options say."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    fraction: float = Field(1.0, gt=0, le=1_000_000, description="of the clients, in proportion to the other levels'")
    rank: int | None = Field(None, ge=1, le=65_536, description="rank of their LoRA")
    layers: int | None = Field(None, ge=1, le=10_000, description="blocks they adapt, counted from the top")
    density: float = Field(1.0, gt=0, le=1, description="fraction of the rows of every B (fedhft)")
    micro_batch: int | None = Field(
        None, ge=1, le=65_536, description="examples per forward pass; gradients add up to the batch"
    )
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, more time")
    memory_mib: float | None = Field(
        None, gt=0, le=MAX_MIB, description="what the device has; rank, layers and the rest follow"
    )
    uplink_mib_per_round: float | None = Field(None, gt=0, le=MAX_MIB, description="most it may send in a round")
    seconds_per_round: float | None = Field(
        None, gt=0, le=MAX_SECONDS, description="most its training may take in a round"
    )


class PrefixCacheConfig(BaseModel):
    """Hidden states below the first adapted block, computed once per example and kept in memory."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    limit_mib: float = Field(
        1024, gt=0, le=MAX_MIB, description="most it may hold; 1,000 examples of 64 tokens of width 384: 94 MiB"
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(None, description="stored in; null: as computed")
    folder: str | None = Field(None, description="a folder for them, mapped into memory; null: in memory")


class TuningConfig(BaseModel):
    """How `compare` looks for the learning rate of a method with `lr: auto`: alike for every method."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    factor: float = Field(3.0, ge=1.1, le=1_000, description="from one rate to the next, until the best lies inside")
    trials: int = Field(5, ge=3, le=1_000, description="rates tried for each method, with the first seed")


class Experiment(BaseModel):
    """Model, data, partition, training and methods: everything a run depends on, but the seed's draw."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(description="names the run's folder")
    seed: int = Field(
        0, ge=0, le=MAX_SEED, description="of data split, start and shuffling; `compare` counts on from here"
    )
    model: ModelConfig
    task: TaskConfig
    partition: PartitionConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    resources: list[ResourceLevel] = Field(default_factory=list, description="levels of clients; empty: all alike")
    methods: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="options by label; `method:` names the method where the label does not; "
        "`compare` tunes a list of learning rates on validation, and finds one of its own with `lr: auto` or "
        "`lr: {start: RATE}`",
    )
    tuning: TuningConfig = Field(default_factory=TuningConfig)
    target: float | None = Field(
        None, description="a validation score: what each method costs until it first reaches it, beside every final one"
    )
    cross_evaluation: bool | list[str] = Field(
        False, description="of which methods to score every client's deployed model on every client's test examples"
    )
    engine: str = Field(
        "local", description="batched: several clients in one forward and backward, for GPUs and tiny batches"
    )
    flower: FlowerConfig = Field(default_factory=FlowerConfig, description="of the engines flower and flower-sim")
    prefix_cache: PrefixCacheConfig | None = Field(
        None, description="for adapters in upper blocks only: what lies below them is computed once per example"
    )
    max_clients: int = Field(
        8, ge=1, le=10_000, description="batched: most clients in one forward; fewer where memory does not hold them"
    )
    workers: int | None = Field(
        None, ge=1, le=1_024, description="clients trained at once; default: the machine's cores; on GPUs one each"
    )
    tracking: TrackingConfig = Field(
        default_factory=TrackingConfig, description="trackers that hear of every round: tensorboard, mlflow, wandb"
    )
    _notes: tuple[str, ...] = PrivateAttr(())

    def __new__(cls, **values: Any) -> "Experiment":
        """Raises UserError, one line, where pydantic's own error of `Experiment(...)` would have many."""
        if values:  # pydantic itself makes objects without
            try:
                cls.model_validate(values)
            except ValidationError as error:
                raise UserError(f"Experiment: {first_error(error, cls)}") from None
        return super().__new__(cls)

    @model_validator(mode="after")
    def _apply_default_length(self) -> "Experiment":
        if "max_length" not in self.model.model_fields_set:
            self.model.max_length = find_kind(self.task.kind).default_max_length
        return self

    @field_validator("engine")
    @classmethod
    def _require_known_engine(cls, name: str) -> str:
        if name not in list_engines():
            near = suggest(name, list_engines())
            raise ValueError(f"no engine {preview(name)}{near}; known: {', '.join(list_engines())}")
        return name

    @model_validator(mode="after")
    def _require_known_cross_methods(self) -> "Experiment":
        for label in self.cross_evaluation if isinstance(self.cross_evaluation, list) else []:
            if label not in self.methods:
                near = suggest(label, list(self.methods))
                raise ValueError(
                    f"cross_evaluation: no method {preview(label)}{near}; in the file: {', '.join(self.methods)}"
                )
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the file: keys that have a new name."""
        return self._notes

    def get_requested_accelerations(self) -> dict[str, dict[str, Any]]:
        """The accelerations that the file asks for, with their settings, by key."""
        return {} if self.prefix_cache is None else {"prefix_cache": self.prefix_cache.model_dump()}

    def get_method_name(self, label: str) -> str:
        """The method that a label stands for. Raises UserError when there is none of that name."""
        if label not in self.methods:
            if not _is_method(label):
                known = list(dict.fromkeys([*self.methods, *list_methods()]))
                raise UserError(f"unknown method {preview(label)}{suggest(label, known)}; known: {', '.join(known)}")
            return label
        name = self.methods[label].get("method", label)
        if not isinstance(name, str) or not _is_method(name):
            where = f"methods.{label}" + (".method" if "method" in self.methods[label] else "")
            known = list_methods()
            raise UserError(
                f"{where}: unknown method {preview(name)}{suggest(str(name), known)}; known: {', '.join(known)}"
            )
        return name

    def list_learning_rates(self, label: str) -> list[float | None]:
        """The rates to choose from where the file gives a list; where the rate is searched for, that at the start; else
        [None], the one that the method has."""
        rates = self.methods.get(label, {}).get("lr")
        if self.is_rate_searched(label):
            return [self._make_method(label, self._read_start(label)).options.lr]
        if not isinstance(rates, list):
            return [None]
        if not rates:
            raise UserError(f"methods.{label}.lr is an empty list; give at least one learning rate")
        return [self._make_method(label, rate).options.lr for rate in rates]  # checked, and numbers

    def is_rate_searched(self, label: str) -> bool:
        """Whether `compare` finds the learning rate: `lr: auto`, or `lr: {start: RATE}`."""
        rate = self.methods.get(label, {}).get("lr")
        return rate == "auto" or isinstance(rate, dict)

    def _read_start(self, label: str) -> Any:
        rate = self.methods[label]["lr"]
        if rate == "auto":
            return find_method(self.get_method_name(label)).Options.model_fields["lr"].default
        if list(rate) != ["start"]:
            raise UserError(f"methods.{label}.lr: a rate, a list, auto, or {{start: RATE}}, received {preview(rate)}")
        return rate["start"]

    def build_method(self, label: str, lr: float | None = None) -> Method[Any]:
        """The method with its options checked; `lr` replaces the file's. Raises UserError."""
        rate = self.methods.get(label, {}).get("lr")
        if lr is None and (isinstance(rate, list) or self.is_rate_searched(label)):
            what = "a list" if isinstance(rate, list) else "to be found"
            first = f"={self.list_learning_rates(label)[0]:g}" if rate else ""
            raise UserError(
                f"methods.{label}.lr is {what}, received {preview(rate)}; `compare` chooses one, "
                f"a single run needs it: --set methods.{label}.lr{first}"
            )
        return self._make_method(label, rate if lr is None else lr)

    def _make_method(self, label: str, lr: Any) -> Method[Any]:
        kind = find_method(self.get_method_name(label))
        options = {key: value for key, value in self.methods.get(label, {}).items() if key != "method"}
        if lr is not None or "lr" in options:
            options["lr"] = lr
        try:
            return kind(kind.Options.model_validate(options))
        except ValidationError as error:
            raise UserError(first_error(error, kind.Options, ("methods", label))) from error


def _is_method(name: str) -> bool:
    # Those of this package first: for others every installed package's metadata is read.
    return name in list_built_in() or name in list_methods()
