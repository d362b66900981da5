"""From what a program passes to a checked experiment: a file, a mapping or an Experiment, with data and model."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import exists
from pathlib import Path
from typing import Any

from fedpeft.backbones.given import require_model
from fedpeft.backbones.locate import locate_model
from fedpeft.config import Experiment, ModelConfig, apply_values, parse_experiment, read_yaml
from fedpeft.errors import UserError, preview
from fedpeft.tasks.given import CLIENT, IN_MEMORY, read_given


@dataclass(frozen=True)
class Inputs:
    """What a program gives instead of naming it. Raises UserError for a model without tokenizer, and what is none."""

    data: Any = None
    model: Any = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        if self.model is not None:
            require_model(self.model, self.tokenizer)
        elif self.tokenizer is not None:
            raise UserError("tokenizer: it is given with a model: model=...; a model by name brings its own")

    def prepare_model(self, config: ModelConfig) -> None:
        """Gives the model to a configuration that says it was given. Raises UserError where it says otherwise."""
        if self.model is None:
            return
        if config.name != IN_MEMORY:
            raise UserError(f"model: this run has the model {preview(config.name)}; leave model and tokenizer out")
        config.give_module(self.model, self.tokenizer)

    def prepare(self, experiment: Experiment) -> None:
        """Gives data and model to the experiment of a run that had them. Raises UserError where it had none."""
        self.prepare_model(experiment.model)
        if self.data is None:
            return
        if experiment.task.source != IN_MEMORY:
            raise UserError(f"data: this run's data are {preview(experiment.task.source)}; leave data out")
        experiment.task.give_rows(read_given(self.data)[0])


def make_experiment(source: Any, overrides: Mapping[str, Any] | None, inputs: Inputs) -> tuple[Experiment, Path]:
    """The experiment, and the folder at which its paths start. Neither source nor overrides are changed.

    `source` is the path of a YAML file, a mapping as it holds, or an Experiment. Raises UserError, one line.
    """
    raw, where, base = _read(source)
    if overrides is not None and not isinstance(overrides, Mapping):
        raise UserError(f"overrides: expected a dict like {{'training.rounds': 3}}, received {preview(overrides)}")
    apply_values(raw, overrides or {})
    if inputs.model is not None:
        _get_group(raw, "model", where)["name"] = IN_MEMORY
    given = None if inputs.data is None else read_given(inputs.data)
    if given is not None:
        _name_data(raw, where, is_by_client=given[1])
    experiment = parse_experiment(raw, [], where)
    if experiment.model.name != IN_MEMORY:
        experiment.model.name = locate_model(experiment.model.name, base)
    inputs.prepare_model(experiment.model)
    if given is not None:
        experiment.task.give_rows(given[0])
    return experiment, base


def _read(source: Any) -> tuple[dict[str, Any], str, Path]:
    if isinstance(source, Experiment):
        return source.model_dump(), "experiment", Path()
    if isinstance(source, Mapping):
        return copy.deepcopy(dict(source)), "experiment", Path()
    if not isinstance(source, str | Path):
        raise UserError(f"experiment: expected a file, a dict or a fedpeft.Experiment, received {preview(source)}")
    if not exists(source):
        raise UserError(f"no such experiment file: {source}; `fedpeft init` writes one")
    raw = read_yaml(Path(source))
    if not isinstance(raw, dict):
        raise UserError(f"{source}: expected settings as KEY: VALUE, received {preview(raw)}")
    return raw, str(source), Path(source).parent


def _name_data(raw: dict[str, Any], where: str, is_by_client: bool) -> None:
    """Writes into the settings that a program gave the data, and that they name their clients."""
    _get_group(raw, "task", where)["source"] = IN_MEMORY
    if is_by_client:
        partition = _get_group(raw, "partition", where)
        kind = partition.setdefault("kind", "natural")
        if kind != "natural":
            raise UserError(f"data: given by client, but partition.kind is {preview(kind)}; leave partition out")
        partition["column"] = CLIENT


def _get_group(raw: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    if raw.get(key) is None:
        raw[key] = {}
    group = raw[key]
    if not isinstance(group, dict):
        raise UserError(f"{where}: {key}: expected a group of settings, received {preview(group)}")
    return group
