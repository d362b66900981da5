"""One layer of a plain backbone as several clients have it: each hook holds the clients' own tensors for that layer.

`load` reads the tensors for the rows of one batch, as a part of the graph, so gradients reach every client's own.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedpeft.acceleration.row_groups import RowGroups
from fedpeft.adapters.lora.frozen_delta import get_frozen_delta
from fedpeft.adapters.lora.masked import MaskedRows
from fedpeft.adapters.reft.layer import LoReftLayer
from fedpeft.adapters.reft.positions import PromptTracker


class StackedLayer(Protocol):
    """What a stack asks of each of its layers."""

    def load(self, groups: RowGroups | None) -> None:
        """Read the tensors of the clients that have rows; None: be the plain layer again."""


class StackedLinear:
    """A linear layer whose output gains s B A x, and what is merged, each row by its own client's LoRA.

    Unlike ranks are filled up with zeros; a client without LoRA on this layer has zeros only.
    """

    def __init__(self, base: nn.Module, layers: Mapping[int, tuple[LoraLayer, str]]) -> None:
        """`layers`: by client, its LoRA layer and adapter name."""
        self._layers = layers
        self._loaded: tuple[RowGroups, Tensor, Tensor] | None = None
        base.register_forward_hook(self._add)

    def load(self, groups: RowGroups | None) -> None:
        present = {c for c, _ in groups.runs if c in self._layers} if groups else set()
        self._loaded = None
        if groups and present:
            pairs = {client: factors(*self._layers[client]) for client in sorted(present)}
            A = groups.expand({client: A for client, (A, _) in pairs.items()})  # (groups, R, d_in)
            B = groups.expand({client: B.mT for client, (_, B) in pairs.items()})  # (groups, R, d_out)
            self._loaded = groups, A, B

    def _add(self, base: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """(batch, ..., d_in), (batch, ..., d_out) -> (batch, ..., d_out) in the output's dtype."""
        if self._loaded is None:
            return output
        groups, A, B = self._loaded
        update = groups.group(inputs[0]).to(A.dtype) @ A.mT @ B  # (groups, tokens, d_out)
        return (output + update.reshape(output.shape)).to(output.dtype)


class StackedBlock:
    """A transformer block whose output is edited, each row by its own client's LoReFT at its own positions."""

    def __init__(self, base: nn.Module, layers: Mapping[int, tuple[LoReftLayer, str]], tracker: PromptTracker) -> None:
        """`layers`: by client, its LoReFT layer and adapter name; `tracker`: of the plain model."""
        self._layers, self._tracker = layers, tracker
        self._loaded: tuple[RowGroups, Tensor, Tensor, Tensor] | None = None
        base.register_forward_hook(self._edit_output, prepend=True)  # as the layer's own: recorders see the edit

    def load(self, groups: RowGroups | None) -> None:
        present = {c for c, _ in groups.runs if c in self._layers} if groups else set()
        self._loaded = None
        if groups and present:
            edits = {client: _edit(*self._layers[client]) for client in sorted(present)}
            # (groups, K, d) twice and (groups, K): K is the largest number of directions of a client
            down, up, bias = (groups.expand({c: edit[i] for c, edit in edits.items()}) for i in range(3))
            self._loaded = groups, down, up, bias

    def _edit_output(self, block: nn.Module, args: Any, output: Any) -> Any:
        if self._loaded is None or not self._tracker.is_editing:
            return output
        if isinstance(output, tuple):
            return (self._edited(output[0], *self._loaded), *output[1:])
        return self._edited(output, *self._loaded)

    def _edited(self, hidden: Tensor, groups: RowGroups, down: Tensor, up: Tensor, bias: Tensor) -> Tensor:
        """(batch, length, d) -> the same shape and dtype: h + R^T ((W - R) h + b), as `LoReftLayer.edit`."""
        down, up, bias = (tensor.to(hidden.dtype) for tensor in (down, up, bias))
        inner = torch.baddbmm(bias.unsqueeze(1), groups.group(hidden), down.mT)  # (groups, tokens, K)
        inner = self._at_positions(inner, groups)
        return hidden + (inner @ up).reshape(hidden.shape)

    def _at_positions(self, inner: Tensor, groups: RowGroups) -> Tensor:
        """`inner` (groups, tokens, K), zero where the row's own client does not edit."""
        masks = {client: self._mask(client, inner.dtype) for client, _ in groups.runs if client in self._layers}
        if len({id(mask) for mask in masks.values()}) == 1:  # one placement for all: the tracker keeps its mask
            mask = next(iter(masks.values()))
            return inner if mask is None else inner * groups.group(mask)
        parts, start = [], 0
        for client, repeats in groups.runs:
            part, mask = inner[start : start + repeats], masks.get(client)
            if mask is not None:
                own = groups.group(mask)[start : start + repeats].to(part.device)  # (repeats, tokens, k)
                part = part * nn.functional.pad(own, (0, part.shape[-1] - own.shape[-1]))
            parts.append(part)
            start += repeats
        return torch.cat(parts)

    def _mask(self, client: int, dtype: torch.dtype) -> Tensor | None:
        """(batch, length, k) of 0 and 1 at the client's positions; None: every position."""
        layer, adapter = self._layers[client]
        positions, tied, _ = layer.settings[adapter]
        return self._tracker.get_mask(positions, tied, layer.reft_R[adapter].shape[1], dtype)


class StackedHead:
    """A trained linear head, each row by its own client's; the plain layer's for a client that trains none."""

    def __init__(self, base: nn.Linear, layers: Mapping[int, nn.Linear]) -> None:
        self._base, self._layers = base, layers
        self._loaded: tuple[RowGroups, Tensor, Tensor | None] | None = None
        base.register_forward_hook(self._replace)

    def load(self, groups: RowGroups | None) -> None:
        self._loaded = None
        if groups:
            own = {client: self._layers.get(client, self._base) for client in sorted({c for c, _ in groups.runs})}
            weight = groups.expand({client: layer.weight for client, layer in own.items()})  # (groups, classes, d)
            biases = {client: layer.bias for client, layer in own.items() if layer.bias is not None}
            self._loaded = groups, weight, groups.expand(biases) if biases else None  # (groups, classes)

    def _replace(self, base: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """(batch, ..., d) -> (batch, ..., classes)."""
        if self._loaded is None:
            return output
        groups, weight, bias = self._loaded
        logits = groups.group(inputs[0]) @ weight.mT  # (groups, tokens, classes)
        return (logits if bias is None else logits + bias.unsqueeze(1)).reshape(output.shape)


def factors(layer: LoraLayer, adapter: str) -> tuple[Tensor, Tensor]:
    """A (R, d_in) and B (d_out, R) of the layer's whole update B A, in the graph of the trained tensors.

    Masked rows stand in their places, the scale is in B, and what is merged adds its rank, without gradient.
    """
    A, up = layer.lora_A[adapter].get_parameter("weight"), layer.lora_B[adapter]
    B: Tensor = up.get_parameter("weight")
    if isinstance(up, MaskedRows):
        B = B.new_zeros(up.width, B.shape[1]).index_copy(0, up.rows, B)
    B = B * layer.scaling[adapter]
    delta = get_frozen_delta(layer)
    if delta is None:
        return A, B
    more_A, more_B = delta.read_factors()
    return torch.cat((A, more_A)), torch.cat((B, more_B), 1)


def _edit(layer: LoReftLayer, adapter: str) -> tuple[Tensor, Tensor, Tensor]:
    """W - R (or W for direft) (k, d), R (k, d) and b (k,), k = groups * rank, in the graph."""
    _, _, minus = layer.settings[adapter]
    R, W, b = layer.reft_R[adapter], layer.reft_W[adapter], layer.reft_b[adapter]
    return (W - R if minus else W).flatten(0, 1), R.flatten(0, 1), b.flatten()
