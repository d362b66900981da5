"""From an experiment file and `--set` to a checked experiment, or one line that says where the mistake is."""

import re
from collections.abc import Callable, Mapping
from os.path import exists
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedpeft.backbones.locate import locate_model
from fedpeft.config.experiment import Experiment
from fedpeft.config.validation import first_error
from fedpeft.config.yaml_reader import MAX_DEPTH, parse_yaml, read_yaml
from fedpeft.errors import UserError, preview, printable
from fedpeft.methods import list_rivals

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # it becomes part of a folder's name


def load_experiment(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Reads and checks an experiment file; `overrides` are `a.b=value` in YAML. Raises UserError, one line.

    A local model, whose path starts at the file as those of data do, is one by its absolute path from here on.
    """
    if not exists(path):
        raise UserError(f"no such experiment file: {path}; `fedpeft init` writes one")
    experiment = parse_experiment(read_yaml(path), overrides or [], str(path))
    experiment.model.name = locate_model(experiment.model.name, path.parent)
    return experiment


def parse_experiment(raw: Any, overrides: list[str], where: str) -> Experiment:
    """A mapping, as YAML gives it, to a checked Experiment whose every method can be built."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected settings as KEY: VALUE, received {preview(raw)}")
    for override in overrides:
        _apply_override(raw, override)
    notes = rename_old_keys(raw)
    try:
        experiment = Experiment.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {first_error(error, Experiment)}") from error
    has_rank = [level.rank is not None for level in experiment.resources if level.memory_mib is None]
    if any(has_rank) and not all(has_rank):
        raise UserError(
            f"{where}: resources: give a rank in every level or in none; without one it is the method's own"
        )
    _require_safe(f"{where}: name", experiment.name)
    for label in experiment.methods:
        _require_safe(f"{where}: methods", label)
        for lr in experiment.list_learning_rates(label):
            experiment.build_method(label, lr)
        name = experiment.get_method_name(label)
        for package in list_rivals(name):
            notes.append(f"methods.{label}: package {package} brings a method {name!r} too; fedpeft's own is used")
    experiment._notes = tuple(f"{where}: {note}" for note in notes)
    return experiment


def _require_safe(where: str, name: str) -> None:
    if not _SAFE.fullmatch(name):
        raise UserError(f"{where}: letters, digits, '.', '_' and '-' only, at most 100, received {preview(name)}")


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


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *groups, last = key.split(".")
    if not equals or not all((*groups, last)) or len(groups) > MAX_DEPTH:
        raise UserError(f"--set takes KEY=VALUE, e.g. training.rounds=3, received {preview(override)}")
    where = f"--set {printable(override, 200)}"
    _set_value(raw, key, lambda: parse_yaml(value, where), where)


def apply_values(raw: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Puts values under their dotted keys ("training.rounds"), in place. Raises UserError for a key that cannot be."""
    for key, value in values.items():
        if not isinstance(key, str) or not all(key.split(".")) or key.count(".") > MAX_DEPTH:
            raise UserError(f"overrides: keys are like 'training.rounds', received {preview(key)}")
        _set_value(raw, key, lambda value=value: value, f"overrides[{key!r}]")  # type: ignore[misc]


def _set_value(raw: dict[str, Any], key: str, read: Callable[[], Any], where: str) -> None:
    *groups, last = key.split(".")
    node = raw
    for group in groups:
        if node.get(group) is None:
            node[group] = {}
        node = node[group]
        if not isinstance(node, dict):
            raise UserError(f"{where}: {group!r} holds a value, not a group of settings")
    node[last] = read()
