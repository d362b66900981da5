"""The experiment: what the YAML file may say, and one clear line when it says something else.

Its names are imported when they are first used: a message about a file needs no model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpeft.config.experiment import Experiment, ModelConfig, PrefixCacheConfig, ResourceLevel
    from fedpeft.config.load import apply_values, load_experiment, parse_experiment, rename_old_keys
    from fedpeft.config.yaml_reader import parse_yaml, read_yaml

_NAMES = {
    "experiment": ("Experiment", "ModelConfig", "PrefixCacheConfig", "ResourceLevel"),
    "load": ("apply_values", "load_experiment", "parse_experiment", "rename_old_keys"),
    "yaml_reader": ("parse_yaml", "read_yaml"),
}

__all__ = [
    "Experiment",
    "ModelConfig",
    "PrefixCacheConfig",
    "ResourceLevel",
    "apply_values",
    "load_experiment",
    "parse_experiment",
    "parse_yaml",
    "read_yaml",
    "rename_old_keys",
]


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
