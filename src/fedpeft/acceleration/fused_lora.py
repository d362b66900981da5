"""A LoRA layer as one operation, x W^T + bias + s (x A^T) B^T, that adds the update inside the product. Ours [choice].

PEFT's layer multiplies the update by s and adds it in separate passes over (tokens, d_out), forward and backward.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedpeft.acceleration.base import Acceleration
from fedpeft.adapters import AdaptedModel


class FusedLora(Acceleration):
    """Plain LoRA layers that run as one operation."""

    def install_(self, model: AdaptedModel) -> None:
        fuse_lora_(model.model)


def fuse_lora_(model: nn.Module) -> None:
    """Makes the plain LoRA layers inside `model` run as one operation."""
    for layer in model.modules():
        if type(layer) is LoraLinear and not isinstance(layer.forward, FusedForward):
            layer.forward = FusedForward(layer)  # type: ignore[method-assign]


class FusedForward:
    """A LoRA layer's forward: one operation while the layer is plain, and PEFT's own forward while it is not."""

    def __init__(self, layer: LoraLinear) -> None:
        self._layer, self._peft_forward = layer, layer.forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        operands = None if args or kwargs else self._get_operands(x)
        if operands is None:
            result: Tensor = self._peft_forward(x, *args, **kwargs)
            return result
        base, A, B, scale = operands
        output: Tensor = _LoraProduct.apply(x.flatten(0, -2), base.weight, base.bias, A, B, scale)
        return output.unflatten(0, x.shape[:-1])

    def _get_operands(self, x: Tensor) -> tuple[nn.Linear, Tensor, Tensor, float] | None:
        """The base layer, A, B and s of a layer that is nothing else; None for any other.

        Not plain are: masked rows, a frozen delta or merged weights, quantised weights, autocast, dropout, LoRA
        variants, several active adapters, and a base layer that trains.
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
        if any(parameter.requires_grad for parameter in base.parameters()):
            return None
        if not (x.dtype == base.weight.dtype == down.weight.dtype == up.weight.dtype):
            return None
        if torch.is_autocast_enabled(x.device.type):
            return None
        return base, down.weight, up.weight, layer.scaling[name]


class _LoraProduct(torch.autograd.Function):
    """x (tokens, d_in), W (d_out, d_in), bias (d_out,) or None, A (r, d_in), B (d_out, r) -> (tokens, d_out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
        inner = x @ A.T  # (tokens, r)
        _, _, _, needs_A, needs_B, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_A else None, inner if needs_B else None, W, A, B)
        ctx.scale = scale
        return nn.functional.linear(x, W, bias).addmm_(inner, B.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, inner, W, A, B) = gradients, ctx.saved_tensors
        needs_x, _, _, needs_A, needs_B, _ = ctx.needs_input_grad
        inner_gradient = gradient @ B if needs_x or needs_A else None  # (tokens, r)
        x_gradient = A_gradient = B_gradient = None
        if inner_gradient is not None and needs_A:
            A_gradient = (inner_gradient.T @ x).mul_(ctx.scale)
        if needs_B:
            B_gradient = (gradient.T @ inner).mul_(ctx.scale)
        if inner_gradient is not None and needs_x:
            x_gradient = (gradient @ W).addmm_(inner_gradient, A, alpha=ctx.scale)
        return x_gradient, None, None, A_gradient, B_gradient, None


def _is_plain(linear: nn.Module) -> bool:
    """Whether a module is a linear layer and nothing else: no quantised subclass, no hook, no replaced forward."""
    return (
        type(linear) is nn.Linear
        and not linear._forward_hooks
        and not linear._forward_pre_hooks
        and "forward" not in vars(linear)
    )
