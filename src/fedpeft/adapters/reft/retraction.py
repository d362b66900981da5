"""Keeps R orthonormal under whatever torch optimiser trains it: the Hugging Face Trainer knows of no retraction."""

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

if TYPE_CHECKING:
    from fedpeft.adapters.reft.model import LoReftModel

_in_training: "WeakSet[LoReftModel]" = WeakSet()
_hooks: list[Any] = []  # torch's handle, from the first tuner on: a process that trains no LoReFT has no hook


def retract_after_steps(tuner: "LoReftModel") -> None:
    """From now on every step of an optimiser that holds an R of `tuner` ends with its `retract_()`."""
    if not _hooks:
        _hooks.append(register_optimizer_step_post_hook(_retract_stepped))
    _in_training.add(tuner)


def _retract_stepped(optimiser: Optimizer, args: Any, kwargs: Any) -> None:
    stepped = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    for tuner in list(_in_training):
        if not stepped.isdisjoint(map(id, tuner.constrained)):
            tuner.retract_()
