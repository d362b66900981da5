"""The experiment as typed models: what the YAML file may say, and one clear line when it says something else."""

import re
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from fedpeft.backbones import DTYPES
from fedpeft.engines import list_engines
from fedpeft.errors import UserError, suggest
from fedpeft.federation.method import Method
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import find_method, list_methods
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.kinds import find_kind

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ModelConfig(BaseModel):
    """The frozen backbone that every client holds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(description="hub id, local folder, or package:DISTRIBUTION for a model that a package ships")
    pooling: Literal["mean", "cls", "last"] = Field("mean", description="what the classification head reads")
    max_length: int = Field(64, ge=4, description="tokens kept of each text; for decoders 512 unless stated")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the frozen weights")
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="what the backbone multiplies matrices in; fast where the processor has it; null: as stored",
    )
    device: str = Field("cpu", description="where the model lives: cpu, cuda, cuda:1 ...")
    quantization: Literal["8bit", "4bit"] | None = Field(None, description="of the frozen weights, by bitsandbytes")
    device_map: str | dict[str, int | str] | None = Field(
        None, description="spreads a model over devices as transformers does; auto for one it finds"
    )

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """What `autocast` names."""
        return None if self.autocast is None else DTYPES[self.autocast]


class ResourceLevel(BaseModel):
    """What a group of clients can carry; what is left out stays as the method's options say."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    fraction: float = Field(1.0, gt=0, description="of the clients, in proportion to the other levels'")
    rank: int | None = Field(None, ge=1, description="rank of their LoRA")
    layers: int | None = Field(None, ge=1, description="blocks they adapt, counted from the top")
    density: float = Field(1.0, gt=0, le=1, description="fraction of the rows of every B (fedhft)")
    micro_batch: int | None = Field(None, ge=1, description="examples per forward pass; gradients add up to the batch")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, more time")
    memory_mib: float | None = Field(None, gt=0, description="what the device has; rank, layers and the rest follow")
    uplink_mib_per_round: float | None = Field(None, gt=0, description="most it may send in a round")
    seconds_per_round: float | None = Field(None, gt=0, description="most its training may take in a round")


class PrefixCacheConfig(BaseModel):
    """Hidden states below the first adapted block, computed once per row and kept in memory."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    limit_mib: float = Field(1024, gt=0, description="most it may hold; 1,000 rows of 64 tokens of width 384: 94 MiB")
    dtype: Literal["float32", "bfloat16"] | None = Field(None, description="kept rounded to; null: as computed")
    folder: str | None = Field(None, description="on disk, mapped into memory, instead of in memory")


class Experiment(BaseModel):
    """Model, data, partition, training and methods: everything a run depends on, but the seed's draw."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(description="names the run's folder")
    seed: int = Field(0, ge=0, description="of data split, start and shuffling; `compare` counts on from here")
    model: ModelConfig
    task: TaskConfig
    partition: PartitionConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    resources: list[ResourceLevel] = Field(default_factory=list, description="levels of clients; empty: all alike")
    methods: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="options by label; `method:` names the method where the label does not; "
        "a list of learning rates is tuned on validation by `compare`",
    )
    cross_evaluation: bool | list[str] = Field(
        False, description="of which methods to score every client's personal model on every client's test rows"
    )
    engine: str = Field(
        "local", description="batched: several clients in one forward and backward, for GPUs and tiny batches"
    )
    prefix_cache: PrefixCacheConfig | None = Field(
        None, description="for adapters in upper blocks only: what lies below them is computed once per row"
    )
    max_clients: int = Field(
        8, ge=1, description="batched: most clients in one forward; fewer where memory does not hold them"
    )
    workers: int | None = Field(
        None, ge=1, description="clients trained at once; default: the machine's cores; on a GPU 1"
    )
    _notes: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _kind_decides_length(self) -> "Experiment":
        if "max_length" not in self.model.model_fields_set:
            self.model.max_length = find_kind(self.task.kind).default_max_length
        return self

    @field_validator("engine")
    @classmethod
    def _engine_is_known(cls, name: str) -> str:
        if name not in list_engines():
            near = suggest(name, list_engines())
            raise ValueError(f"no engine {name!r}{near}; known: {', '.join(list_engines())}")
        return name

    @model_validator(mode="after")
    def _crossed_methods_are_known(self) -> "Experiment":
        for label in self.cross_evaluation if isinstance(self.cross_evaluation, list) else []:
            if label not in self.methods:
                near = suggest(label, list(self.methods))
                raise ValueError(f"cross_evaluation: no method {label!r}{near}; in the file: {', '.join(self.methods)}")
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the file: keys that have a new name."""
        return self._notes

    def requested_accelerations(self) -> dict[str, dict[str, Any]]:
        """The accelerations that the file asks for, with their settings, by key."""
        return {} if self.prefix_cache is None else {"prefix_cache": self.prefix_cache.model_dump()}

    def method_name(self, label: str) -> str:
        """The method that a label stands for. Raises UserError when there is none of that name."""
        methods = list_methods()
        if label not in self.methods:
            known = [label for label in self.methods if label not in methods] + methods
            if label not in methods:
                raise UserError(f"unknown method {label!r}{suggest(label, known)}; known: {', '.join(known)}")
            return label
        name = self.methods[label].get("method", label)
        if not isinstance(name, str) or name not in methods:
            where = f"methods.{label}" + (".method" if "method" in self.methods[label] else "")
            raise UserError(
                f"{where}: unknown method {name!r}{suggest(str(name), methods)}; known: {', '.join(methods)}"
            )
        return name

    def learning_rates(self, label: str) -> list[float | None]:
        """The rates to choose from where the file gives a list; else [None], the one that the method has."""
        rates = self.methods.get(label, {}).get("lr")
        if not isinstance(rates, list):
            return [None]
        if not rates:
            raise UserError(f"methods.{label}.lr is an empty list; give at least one learning rate")
        return [self.build_method(label, rate).options.lr for rate in rates]  # checked, and numbers

    def build_method(self, label: str, lr: float | None = None) -> Method[Any]:
        """The method with its options checked; `lr` replaces the file's. Raises UserError."""
        kind = find_method(self.method_name(label))
        options = {key: value for key, value in self.methods.get(label, {}).items() if key != "method"}
        if lr is not None:
            options["lr"] = lr
        if isinstance(options.get("lr"), list):
            raise UserError(
                f"methods.{label}.lr is a list, received {options['lr']}; `compare` tunes over it, "
                f"a single run needs one: --set methods.{label}.lr={options['lr'][0]}"
            )
        try:
            return kind(kind.Options.model_validate(options))
        except ValidationError as error:
            raise UserError(first_error(error, kind.Options, ("methods", label))) from error


def load_experiment(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Reads and checks an experiment file; `overrides` are `a.b=value` in YAML. Raises UserError, one line."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no such experiment file: {path}; `fedpeft init` writes one") from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return parse_experiment(raw, overrides or [], str(path))


def parse_experiment(raw: Any, overrides: list[str], where: str) -> Experiment:
    """A mapping, as YAML gives it, to a checked Experiment whose every method can be built."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected a mapping of settings, received {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    notes = rename_old_keys(raw)
    try:
        experiment = Experiment.model_validate(raw)
        experiment._notes = tuple(f"{where}: {note}" for note in notes)
    except ValidationError as error:
        raise UserError(f"{where}: {first_error(error, Experiment)}") from error
    stated = [level.rank is not None for level in experiment.resources if level.memory_mib is None]
    if any(stated) and not all(stated):
        raise UserError(
            f"{where}: resources: give a rank in every level or in none; without one it is the method's own"
        )
    if not _SAFE.fullmatch(experiment.name):
        raise UserError(f"{where}: name: letters, digits, '.', '_' and '-' only, received {experiment.name!r}")
    for label in experiment.methods:
        if not _SAFE.fullmatch(label):
            raise UserError(f"{where}: methods: letters, digits, '.', '_' and '-' only, received {label!r}")
        for lr in experiment.learning_rates(label):
            experiment.build_method(label, lr)
    return experiment


def rename_old_keys(raw: dict[str, Any]) -> list[str]:
    """Gives keys of earlier versions their new names, in place; returns a line for each name that was old."""
    levels = raw.get("resources")
    places = [("", raw, "clients_at_once", "max_clients")]
    places += [("resources.", level, "share", "fraction") for level in (levels if isinstance(levels, list) else [])]
    notes = []
    for group, settings, old, new in places:
        if isinstance(settings, dict) and old in settings and new not in settings:
            settings[new] = settings.pop(old)
            notes.append(f"{group}{old} is now called {group}{new}; the old name still works")
    return list(dict.fromkeys(notes))


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes KEY=VALUE, e.g. training.rounds=3, received {override!r}")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--set {override}: {parent!r} holds a value, not a group of settings")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML") from error


def first_error(error: ValidationError, model: type[BaseModel], prefix: tuple[str, ...] = ()) -> str:
    """The first problem of a validation as one line: where, what, the value received, and a near name."""
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    where = ".".join((*prefix, *place))
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        return f"unknown key {where!r}{suggest(place[-1], known)}; known: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"missing key {where!r}"
    if problem["type"] == "value_error":  # of keys that do not go together: the message says what was received
        return ": ".join(part for part in (where, str(problem["ctx"]["error"])) if part)
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, received {problem['input']!r}"


def _fields_at(model: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        field = model.model_fields.get(part)
        if field is None:
            continue  # the tag of a union, not a field of its own
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return list(model.model_fields)
