"""The proximal term of FedProx (Li et al., arXiv 1812.06127), which Ditto uses too."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel


def make_proximal_term(model: AdaptedModel, names: Sequence[str], mu: float) -> Callable[[], Tensor] | None:
    """The function () -> mu/2 ||w - w_now||^2 over the named tensors as they stand now; None for mu = 0."""
    if mu == 0:
        return None
    parameters = model.parameters(names)
    anchors = [parameter.detach().clone() for parameter in parameters]

    def compute_term() -> Tensor:
        return mu / 2 * torch.stack([(p - a).square().sum() for p, a in zip(parameters, anchors, strict=True)]).sum()

    return compute_term
