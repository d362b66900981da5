"""A frozen low-rank update beside the trained pair, for methods whose papers merge updates into the base weights.

The base weights themselves are never written. FedHFT's mixture, FLoRA's stack and FedEx-LoRA's residual all have this
form: W0 x + s B A x + merged_B merged_A x.
"""

from collections.abc import Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedpeft.adapters.names import get_frozen_delta_names

CHILD = "frozen_delta"  # the name of a base layer's submodule that is its delta


class FrozenDelta(nn.Module):
    """A hook that adds B A x to the output of a linear layer; it has buffers and no parameter.

    A (r, d_in) and B (d_out, r) are never written to, so that clones can share them. Where the factors would take more
    memory than their product, the product (d_out, d_in) is held instead. It is a hook and no change of the weight,
    because all clients share the weight; and Conv1D, which stores it transposed, needs no case of its own.
    """

    A: Tensor | None
    B: Tensor | None
    dense: Tensor | None

    def __init__(self, base: nn.Module, A: Tensor, B: Tensor) -> None:
        super().__init__()
        is_factored = A.numel() + B.numel() <= B.shape[0] * A.shape[1]
        self.register_buffer("A", A if is_factored else None, persistent=False)
        self.register_buffer("B", B if is_factored else None, persistent=False)
        self.register_buffer("dense", None if is_factored else B @ A, persistent=False)
        self._handle = base.register_forward_hook(self)  # the hook calls `forward`

    def forward(self, base: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The output (..., d_out) plus the delta's own, in the dtype of `output`, summed in the delta's.

        A forward hook: `inputs` are those of the base layer, the first (..., d_in).
        """
        if self.A is not None and self.B is not None:
            inner = nn.functional.linear(inputs[0].to(self.A.dtype), self.A)  # (..., r)
            return (output + nn.functional.linear(inner, self.B)).to(output.dtype)
        assert self.dense is not None
        return (output + nn.functional.linear(inputs[0].to(self.dense.dtype), self.dense)).to(output.dtype)

    def read_factors(self) -> tuple[Tensor, Tensor]:
        """Copies of A and B on the CPU; of a product, the product and an identity of the smaller dimension."""
        if self.A is not None and self.B is not None:
            return self.A.to("cpu", copy=True), self.B.to("cpu", copy=True)
        assert self.dense is not None
        dense = self.dense.to("cpu", copy=True)
        d_out, d_in = dense.shape
        identity = torch.eye(min(d_in, d_out), dtype=dense.dtype)
        return (identity, dense) if d_in <= d_out else (dense, identity)

    def remove_hook(self) -> None:
        """Detaches the delta from its layer, for good."""
        self._handle.remove()


def get_frozen_delta(layer: LoraLayer) -> FrozenDelta | None:
    """The frozen delta of a LoRA layer, or None."""
    delta = getattr(layer.get_base_layer(), CHILD, None)
    return delta if isinstance(delta, FrozenDelta) else None


@torch.no_grad()
def set_frozen_delta_(layers: Mapping[str, LoraLayer], adapter: str, factors: Mapping[str, Tensor]) -> None:
    """Replaces the frozen deltas of `layers` (by module name); `factors` and errors as in
    `AdaptedModel.set_frozen_delta`."""
    pairs = _match_factors(layers, factors)
    for module, layer in layers.items():
        base, old = layer.get_base_layer(), get_frozen_delta(layer)
        if old is not None:
            old.remove_hook()
            delattr(base, CHILD)
        if module in pairs:
            # In the dtype of the trained pair: float32 beside a bfloat16 backbone.
            trained = layer.lora_A[adapter].get_parameter("weight")
            A, B = (t.detach().to(device=trained.device, dtype=trained.dtype, copy=True) for t in pairs[module])
            base.add_module(CHILD, FrozenDelta(base, A, B))


def read_frozen_deltas(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """The factors of the frozen deltas of `layers`, by name, as in `AdaptedModel.frozen_delta`."""
    factors: dict[str, Tensor] = {}
    for module, layer in layers.items():
        delta = get_frozen_delta(layer)
        if delta is not None:
            factors.update(zip(get_frozen_delta_names(module), delta.read_factors(), strict=True))
    return factors


def _match_factors(layers: Mapping[str, LoraLayer], factors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by module; raises `ValueError` where `factors` do not fit the layers."""
    known = {name for module in layers for name in get_frozen_delta_names(module)}
    for name in factors:
        if name not in known:
            raise ValueError(
                f"A frozen delta has <module>.merged_A and <module>.merged_B of LoRA modules. Received: {name}"
            )
    pairs = {}
    for module, layer in layers.items():
        a, b = get_frozen_delta_names(module)
        if a not in factors and b not in factors:
            continue
        if a not in factors or b not in factors:
            raise ValueError(f"{a} and {b} belong together. Received: only {a if a in factors else b}")
        A, B = factors[a], factors[b]
        shapes, rank = (tuple(A.shape), tuple(B.shape)), len(A) if A.dim() else 0
        if shapes != ((rank, layer.in_features), (layer.out_features, rank)):
            raise ValueError(
                f"{a} has shape (r, {layer.in_features}) and {b} ({layer.out_features}, r). "
                f"Received: {shapes[0]} and {shapes[1]}"
            )
        pairs[module] = (A, B)
    return pairs
