"""A LoRA layer as one operation: x W^T + bias + s (x A^T) B^T, the update added in the product itself. Ours [choice].

PEFT's layer multiplies the update by s and adds it in passes of their own over (tokens, d_out), and as many backward.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedpeft.acceleration.base import Acceleration
from fedpeft.adapters import AdaptedModel


class _Fused(torch.autograd.Function):
    """x (tokens, d_in), W (d_out, d_in), bias (d_out,) or None, A (r, d_in), B (d_out, r) -> (tokens, d_out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
        inner = x @ A.T  # (tokens, r)
        _, _, _, of_A, of_B, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_A else None, inner if of_B else None, W, A, B)
        ctx.scale = scale
        return nn.functional.linear(x, W, bias).addmm_(inner, B.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, inner, W, A, B) = given, ctx.saved_tensors
        of_x, _, _, of_A, of_B, _ = ctx.needs_input_grad
        back = gradient @ B if of_x or of_A else None  # (tokens, r)
        given_x = given_A = given_B = None
        if back is not None and of_A:
            given_A = (back.T @ x).mul_(ctx.scale)
        if of_B:
            given_B = (gradient.T @ inner).mul_(ctx.scale)
        if back is not None and of_x:
            given_x = (gradient @ W).addmm_(back, A, alpha=ctx.scale)
        return given_x, None, None, given_A, given_B, None


class FusedForward:
    """A LoRA layer's forward: one operation where the layer is plain, and PEFT's own everywhere else."""

    def __init__(self, layer: LoraLinear) -> None:
        self._layer, self._peft = layer, layer.forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        plain = None if args or kwargs else self._plain(x)
        if plain is None:
            result: Tensor = self._peft(x, *args, **kwargs)
            return result
        base, A, B, scale = plain
        output: Tensor = _Fused.apply(x.flatten(0, -2), base.weight, base.bias, A, B, scale)
        return output.unflatten(0, x.shape[:-1])

    def _plain(self, x: Tensor) -> tuple[nn.Linear, Tensor, Tensor, float] | None:
        """The base layer, A, B and s of a layer that is nothing but them; None for any other.

        Others: masked rows, something merged, quantised or rounded products, dropout, variants, several adapters, a
        trained base layer.
        """
        layer, base = self._layer, self._layer.base_layer
        if len(layer.active_adapters) != 1 or layer.disable_adapters or layer.merged or x.dim() < 2:
            return None
        (name,) = layer.active_adapters
        if name not in layer.lora_A or name in layer.lora_variant or type(layer.lora_dropout[name]) is not nn.Identity:
            return None
        down, up = layer.lora_A[name], layer.lora_B[name]
        if not all(_is_plain(linear) for linear in (base, down, up)) or up.bias is not None:
            return None
        if any(p.requires_grad for p in base.parameters()):
            return None
        if not (x.dtype == base.weight.dtype == down.weight.dtype == up.weight.dtype):
            return None
        if torch.is_autocast_enabled(x.device.type):
            return None
        return base, down.weight, up.weight, layer.scaling[name]


def _is_plain(linear: nn.Module) -> bool:
    """A linear layer and nothing around it: no quantised kind, no hook, no other forward."""
    return (
        type(linear) is nn.Linear
        and not linear._forward_hooks
        and not linear._forward_pre_hooks
        and "forward" not in vars(linear)
    )


class FusedLora(Acceleration):
    """Plain LoRA layers run as one operation."""

    def install_(self, model: AdaptedModel) -> None:
        fuse_lora_(model.model)


def fuse_lora_(model: nn.Module) -> None:
    """Makes the plain LoRA layers inside `model` run as one operation from now on."""
    for layer in model.modules():
        if type(layer) is LoraLinear and not isinstance(layer.forward, FusedForward):
            layer.forward = FusedForward(layer)  # type: ignore[method-assign]
