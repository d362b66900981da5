"""Which rows of B a masked client trains or sends, and by what they are chosen [ours but for the importances]."""

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel, find_lora_pairs, get_frozen_delta_names
from fedpeft.aggregation import row_energy, top_rows
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Tensors

Importance = dict[str, Tensor]  # by module, (d_out,)


class RowGradients:
    """The mean squared gradient of every row of B over the steps of a local training: empirical Fisher information."""

    def __init__(self, model: AdaptedModel) -> None:
        self._b = {module: model.parameters([b])[0] for module, _, b in find_lora_pairs(model.names)}
        self._sums = {module: torch.zeros(len(b), device=b.device) for module, b in self._b.items()}

    def observe(self) -> None:
        """Adds the gradients of one step, which must be complete."""
        for module, b in self._b.items():
            if b.grad is not None:
                self._sums[module] += b.grad.float().square().sum(1)  # (rows,)

    def get_importance(self) -> Importance:
        """The sums (rows,) by module, not divided by the number of steps because only their order matters."""
        return {module: total.cpu() for module, total in self._sums.items()}


def compute_row_energies(trained: Tensors) -> Importance:
    """The energy of every row of B A, (rows,) by module."""
    return {module: row_energy((trained[b], trained[a])).cpu() for module, a, b in find_lora_pairs(trained)}


def choose_rows(importance: Importance, density: float) -> dict[str, Tensor]:
    """The rows of largest importance, (m,) by module."""
    return {module: top_rows(values, density) for module, values in importance.items()}


def get_trained_rows(model: AdaptedModel) -> dict[str, Tensor]:
    """The rows that the model trains, (m,) by module; all of them where nothing is masked."""
    return {module: torch.arange(d_out) for module, (d_out, _) in model.get_dimensions().items()} | model.get_rows()


def draw_rows(model: AdaptedModel, message: Message, client: Client) -> dict[str, Tensor]:
    """The rows to train in this round, (m,) by masked module: half by the energy of the delta received, half at random.

    The random half is drawn anew in every round, so that no row is left out for good.
    """
    draw = client.generator("rows", message.round)
    density, chosen = client.spec.resources.density, {}
    for module in model.get_rows():  # no module is masked where the density is 1
        d_out, _ = model.get_dimensions()[module]
        count = len(top_rows(torch.zeros(d_out), density))
        name_a, name_b = get_frozen_delta_names(module)
        priority = torch.rand(d_out, generator=draw)  # in [0, 1)
        if name_a in message.tensors and count > 1:
            energy = row_energy((message.tensors[name_b], message.tensors[name_a]))
            priority[top_rows(energy, (count // 2) / d_out)] = 2.0  # above every random one
        chosen[module] = top_rows(priority, density)
    return chosen
