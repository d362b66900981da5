"""The experiment: what the YAML file may say, and one clear line when it says something else."""

from fedpeft.config.experiment import Experiment, ModelConfig, PrefixCacheConfig, ResourceLevel
from fedpeft.config.load import load_experiment, parse_experiment, rename_old_keys
from fedpeft.config.yaml_reader import parse_yaml, read_yaml

__all__ = [
    "Experiment",
    "ModelConfig",
    "PrefixCacheConfig",
    "ResourceLevel",
    "load_experiment",
    "parse_experiment",
    "parse_yaml",
    "read_yaml",
    "rename_old_keys",
]
