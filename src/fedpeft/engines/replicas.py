"""Clients' models on several devices of one type: each device holds the frozen backbone once."""

import copy
import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedpeft.adapters import AdaptedModel


class Replicas:
    """Copies of templates on other devices than their own, made when they are first needed. Threads may share it.

    Templates lie on the first device, whose models share their backbone. A device that is named twice gets a backbone
    of its own each time.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = [torch.device(device) for device in devices]
        self._lock = threading.Lock()
        self._tensors: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # by device and id: a frozen tensor, its copy
        self._templates: dict[tuple[int, int], tuple[AdaptedModel, AdaptedModel]] = {}  # likewise

    def use_device(self, worker: int) -> None:
        """Makes a worker's device the one that its thread computes on."""
        if self._devices and (device := self._devices[worker % len(self._devices)]).type == "cuda":
            torch.cuda.set_device(device)

    def get(self, template: AdaptedModel, worker: int) -> AdaptedModel:
        """The template on the device of a worker; workers take devices in turn."""
        index = worker % len(self._devices) if self._devices else 0
        if index == 0:
            return template
        with self._lock:
            key = index, id(template)
            if key not in self._templates:
                self._templates[key] = template, self._copy(template, index)
            return self._templates[key][1]

    def _copy(self, template: AdaptedModel, index: int) -> AdaptedModel:
        trained = {id(parameter) for parameter in template.parameters()}
        frozen = [*template.model.parameters(), *template.model.buffers()]
        memo = {id(tensor): self._copy_tensor(tensor, index) for tensor in frozen if id(tensor) not in trained}
        return AdaptedModel(copy.deepcopy(template.model, memo).to(self._devices[index]))

    def _copy_tensor(self, tensor: Tensor, index: int) -> Tensor:
        """The frozen tensor's copy on a device, the same for all templates that share the tensor."""
        key = index, id(tensor)
        if key not in self._tensors:
            values = tensor.detach().to(self._devices[index], copy=True)
            replica = nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values
            self._tensors[key] = tensor, replica
        return self._tensors[key][1]
