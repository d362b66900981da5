"""A frozen update beside the trainable pair: what a method merges into the base weights, which are never written.

FedHFT's mixture, FLoRA's stack and FedEx-LoRA's residual are all of this form: W0 x + s B A x + merged_B merged_A x.
"""

from collections.abc import Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedpeft.adapters.names import get_frozen_delta_names

CHILD = "frozen_delta"  # under this name a base layer holds its delta


class FrozenDelta(nn.Module):
    """Adds B A x to the output of the linear layer that it hooks; has buffers and no parameter.

    A (r, d_in) and B (d_out, r) are never written, so clones may share them. Where the factors would take more
    memory than their product, the product (d_out, d_in) is held instead. A hook and not a changed weight: the layer's
    weight is shared by every client, and Conv1D, which stores it transposed, needs no case of its own.
    """

    A: Tensor | None
    B: Tensor | None
    dense: Tensor | None

    def __init__(self, base: nn.Module, A: Tensor, B: Tensor) -> None:
        super().__init__()
        factored = A.numel() + B.numel() <= B.shape[0] * A.shape[1]
        self.register_buffer("A", A if factored else None, persistent=False)
        self.register_buffer("B", B if factored else None, persistent=False)
        self.register_buffer("dense", None if factored else B @ A, persistent=False)
        self._handle = base.register_forward_hook(self)  # the base layer calls `forward` below

    def forward(self, base: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """(..., d_in), (..., d_out) -> (..., d_out) in the output's dtype; the sum is taken in the delta's."""
        if self.A is not None and self.B is not None:
            inner = nn.functional.linear(inputs[0].to(self.A.dtype), self.A)  # (..., r)
            return (output + nn.functional.linear(inner, self.B)).to(output.dtype)
        assert self.dense is not None
        return (output + nn.functional.linear(inputs[0].to(self.dense.dtype), self.dense)).to(output.dtype)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Copies of A and B, on the CPU. Where only their product is held: it and an identity of the smaller side."""
        if self.A is not None and self.B is not None:
            return self.A.to("cpu", copy=True), self.B.to("cpu", copy=True)
        assert self.dense is not None
        dense = self.dense.to("cpu", copy=True)
        d_out, d_in = dense.shape
        identity = torch.eye(min(d_in, d_out), dtype=dense.dtype)
        return (identity, dense) if d_in <= d_out else (dense, identity)

    def detach(self) -> None:
        """Stop adding for good."""
        self._handle.remove()


def get_frozen_delta(layer: LoraLayer) -> FrozenDelta | None:
    """What is merged into a LoRA layer's base layer, if anything."""
    delta = getattr(layer.get_base_layer(), CHILD, None)
    return delta if isinstance(delta, FrozenDelta) else None


@torch.no_grad()
def set_frozen_delta_(layers: Mapping[str, LoraLayer], adapter: str, factors: Mapping[str, Tensor]) -> None:
    """Replaces whatever is merged into `layers` (by module name) by `factors`; see `AdaptedModel.merge`."""
    pairs = _checked(layers, factors)
    for module, layer in layers.items():
        base, old = layer.get_base_layer(), get_frozen_delta(layer)
        if old is not None:
            old.detach()
            delattr(base, CHILD)
        if module in pairs:
            like = layer.lora_A[adapter].get_parameter(
                "weight"
            )  # float32 beside a bfloat16 backbone, as PEFT holds the pair itself
            A, B = (t.detach().to(device=like.device, dtype=like.dtype, copy=True) for t in pairs[module])
            base.add_module(CHILD, FrozenDelta(base, A, B))


def read_frozen_deltas(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """The factors of everything merged into `layers`; see `AdaptedModel.merged`."""
    deltas = {module: get_frozen_delta(layer) for module, layer in layers.items()}
    given = {module: delta.factors() for module, delta in deltas.items() if delta is not None}
    return {
        name: factor
        for module, pair in given.items()
        for name, factor in zip(get_frozen_delta_names(module), pair, strict=True)
    }


def _checked(layers: Mapping[str, LoraLayer], factors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    known = {name for module in layers for name in get_frozen_delta_names(module)}
    for name in factors:
        if name not in known:
            raise ValueError(
                f"A merged tensor is <module>.merged_A or <module>.merged_B of a LoRA module. Received: {name}"
            )
    pairs = {}
    for module, layer in layers.items():
        a, b = get_frozen_delta_names(module)
        if a not in factors and b not in factors:
            continue
        if a not in factors or b not in factors:
            raise ValueError(f"{a} and {b} come together. Received: only {a if a in factors else b}")
        A, B = factors[a], factors[b]
        shapes, rank = (tuple(A.shape), tuple(B.shape)), len(A) if A.dim() else 0
        if shapes != ((rank, layer.in_features), (layer.out_features, rank)):
            raise ValueError(
                f"{a} has shape (r, {layer.in_features}) and {b} ({layer.out_features}, r). "
                f"Received: {shapes[0]} and {shapes[1]}"
            )
        pairs[module] = (A, B)
    return pairs
