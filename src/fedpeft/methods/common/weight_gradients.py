"""Sketches of frozen weights' gradients, taken while something else trains: nothing of a weight's size is held."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedpeft.adapters import AdaptedModel, find_lora_pairs
from fedpeft.aggregation import draw_sketch_matrices
from fedpeft.federation.message import Tensors
from fedpeft.federation.randomness import generator


def name_sketches(module: str) -> tuple[str, str]:
    """The names of Y (d_out, k) and Z (l, d_in) of one module."""
    return f"{module}.lora_sketch_right", f"{module}.lora_sketch_left"


def draw_module_matrices(module: str, d_out: int, d_in: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Omega (d_in, k) and Psi (l, d_out) of one module: the same for the server and every client of a run."""
    return draw_sketch_matrices(d_out, d_in, rank, generator(seed, "sketch", module))


class WeightGradients:
    """Sums of sketches of G = dL/dW over all backward passes, for the weight of every LoRA module of a model.

    G = sum over tokens of g x^T, x (d_in,) the token's input and g (d_out,) the gradient of its output. So
    Y = G Omega = sum g (Omega^T x)^T and Z = Psi G = sum (Psi g) x^T need neither G nor a gradient of W.
    """

    def __init__(self, model: AdaptedModel, seed: int) -> None:
        self._matrices: dict[str, tuple[Tensor, Tensor]] = {}
        self._sums: Tensors = {}
        self._layers: dict[str, nn.Module] = {}
        dimensions = model.get_dimensions()
        for module, a, _ in find_lora_pairs(model.names):
            (factor,) = model.parameters([a])  # (r, d_in), on the layer's device
            (d_out, d_in), rank = dimensions[module], len(factor)
            self._layers[module] = model.model.get_submodule(module)
            omega, psi = draw_module_matrices(module, d_out, d_in, rank, seed)
            self._matrices[module] = omega.to(factor.device), psi.to(factor.device)
            right, left = name_sketches(module)
            self._sums[right] = torch.zeros(d_out, omega.shape[1], device=factor.device)
            self._sums[left] = torch.zeros(len(psi), d_in, device=factor.device)

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Context manager in which the model's backward passes count."""
        handles = [layer.register_forward_hook(self._make_hook(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read_mean(self, steps: int) -> Tensors:
        """The sketches of the mean gradient of so many steps, by name, on the CPU."""
        return {name: (total / steps).cpu() for name, total in self._sums.items()}

    def _make_hook(self, module: str) -> Any:
        omega, psi = self._matrices[module]
        right, left = (self._sums[name] for name in name_sketches(module))

        def add_gradient(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            x = inputs[0].detach().flatten(0, -2).float()  # (tokens, d_in)

            def add(gradient: Tensor) -> None:
                g = gradient.detach().flatten(0, -2).float()  # (tokens, d_out)
                right.addmm_(g.T, x @ omega)
                left.addmm_(psi @ g.T, x)

            output.register_hook(add)

        return add_gradient
