"""Adapted models that share one frozen backbone: a template per adapter configuration, a clone per worker."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from fedpeft.adapters import AdaptedModel
from fedpeft.federation.randomness import derived_seed


@contextmanager
def use_seed(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seeds torch's global generator inside the block and restores it after: for libraries that draw from it."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, *purpose))
        yield


def attach_adapter(backbone: nn.Module, config: PeftConfig, seed: int) -> PeftModel:
    """A PEFT model over a copy of `backbone` that shares every tensor; its adapter is drawn from `seed`."""
    shared = copy.deepcopy(backbone, memo={id(t): t for t in (*backbone.parameters(), *backbone.buffers())})
    with use_seed(seed, "adapter"):
        return get_peft_model(shared, config)


class TemplateCache:
    """Templates by adapter configuration. Equal configurations share one template and so one start."""

    def __init__(self, backbone: nn.Module, seed: int) -> None:
        self.backbone, self.seed = backbone, seed
        self._templates: dict[str, AdaptedModel] = {}

    def get_template(self, config: PeftConfig) -> AdaptedModel:
        """The model for a configuration, at its seeded start. Clone it to train."""
        key = json.dumps(config.to_dict(), sort_keys=True, default=sorted)
        if key not in self._templates:
            self._templates[key] = AdaptedModel(attach_adapter(self.backbone, config, self.seed))
        return self._templates[key]
