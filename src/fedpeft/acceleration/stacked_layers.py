"""Layers of a plain backbone that apply each client's adapter to that client's rows: one hook per layer.

`load` reads the clients' tensors for the rows of one batch as part of the graph, so that gradients reach the tensors of
every client.
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
from fedpeft.adapters.reft.prompt import PromptTracker


class StackedLayer(Protocol):
    """The contract of a stacked layer."""

    def load(self, groups: RowGroups | None) -> None:
        """Reads the tensors of the clients that have rows; None makes it the plain layer again."""


class StackedLinear:
    """A linear layer whose output gains s B A x and the frozen delta, each row by its own client's LoRA.

    Smaller ranks are padded with zeros; a client without LoRA on this layer has only zeros.
    """

    def __init__(self, base: nn.Module, layers: Mapping[int, tuple[LoraLayer, str]]) -> None:
        """Hooks `base`; `layers` are, by client, its LoRA layer and adapter name."""
        self._layers = layers
        self._loaded: tuple[RowGroups, Tensor, Tensor] | None = None
        base.register_forward_hook(self._add_update)

    def load(self, groups: RowGroups | None) -> None:
        present = groups.clients & self._layers.keys() if groups else set()
        self._loaded = None
        if groups and present:
            pairs = {client: read_factors(*self._layers[client]) for client in sorted(present)}
            A = groups.expand({client: A for client, (A, _) in pairs.items()})  # (groups, R, d_in)
            B = groups.expand({client: B.mT for client, (_, B) in pairs.items()})  # (groups, R, d_out)
            self._loaded = groups, A, B

    def _add_update(self, base: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """(batch, ..., d_in), (batch, ..., d_out) -> (batch, ..., d_out) in the output's dtype."""
        if self._loaded is None:
            return output
        groups, A, B = self._loaded
        update = groups.group(inputs[0]).to(A.dtype) @ A.mT @ B  # (groups, tokens, d_out)
        return (output + update.reshape(output.shape)).to(output.dtype)


class StackedBlock:
    """A transformer block whose output is edited, each row by its own client's LoReFT at its own positions."""

    def __init__(self, base: nn.Module, layers: Mapping[int, tuple[LoReftLayer, str]], tracker: PromptTracker) -> None:
        """Hooks `base`; `layers` are, by client, its LoReFT layer and adapter name; `tracker` is the plain model's."""
        self._layers, self._tracker = layers, tracker
        self._loaded: tuple[RowGroups, Tensor, Tensor, Tensor] | None = None
        base.register_forward_hook(self._edit_output, prepend=True)  # first, so that other hooks see the edited states

    def load(self, groups: RowGroups | None) -> None:
        present = groups.clients & self._layers.keys() if groups else set()
        self._loaded = None
        if groups and present:
            edits = {client: _read_edit(*self._layers[client]) for client in sorted(present)}
            # (groups, K, d) twice and (groups, K), where K is the largest number of directions of a client.
            down, up, bias = (groups.expand({client: edit[i] for client, edit in edits.items()}) for i in range(3))
            self._loaded = groups, down, up, bias

    def _edit_output(self, block: nn.Module, args: Any, output: Any) -> Any:
        if self._loaded is None or self._tracker.prompt is None:
            return output
        if isinstance(output, tuple):
            return (self._edit(output[0], *self._loaded), *output[1:])
        return self._edit(output, *self._loaded)

    def _edit(self, hidden: Tensor, groups: RowGroups, down: Tensor, up: Tensor, bias: Tensor) -> Tensor:
        """h + R^T ((W - R) h + b) as in `LoReftLayer.edit`, of the shape (batch, length, d) and dtype of `hidden`."""
        down, up, bias = (tensor.to(hidden.dtype) for tensor in (down, up, bias))
        inner = torch.baddbmm(bias.unsqueeze(1), groups.group(hidden), down.mT)  # (groups, tokens, K)
        inner = self._mask_positions(inner, groups)
        return hidden + (inner @ up).reshape(hidden.shape)

    def _mask_positions(self, inner: Tensor, groups: RowGroups) -> Tensor:
        """`inner` (groups, tokens, K) with zeros where the row's own client does not edit."""
        masks = {client: self._get_mask(client, inner.dtype) for client in groups.clients & self._layers.keys()}
        if len({id(mask) for mask in masks.values()}) == 1:  # equal positions: the tracker returns the same mask
            mask = next(iter(masks.values()))
            return inner if mask is None else inner * groups.group(mask)
        parts, start = [], 0
        for client, repeats in groups.runs:
            part, mask = inner[start : start + repeats], masks.get(client)
            if mask is not None:
                client_mask = groups.group(mask)[start : start + repeats].to(part.device)  # (repeats, tokens, k)
                part = part * nn.functional.pad(client_mask, (0, part.shape[-1] - client_mask.shape[-1]))
            parts.append(part)
            start += repeats
        return torch.cat(parts)

    def _get_mask(self, client: int, dtype: torch.dtype) -> Tensor | None:
        """The mask (batch, length, k) of 0 and 1 at the client's positions; None: every position."""
        layer, adapter = self._layers[client]
        positions, tied, _ = layer.settings[adapter]
        assert self._tracker.prompt is not None  # else nothing is edited
        return self._tracker.prompt.get_mask(positions, tied, layer.reft_R[adapter].shape[1], dtype)


class StackedHead:
    """A linear head, each row by its own client's; by the plain layer for a client that trains none."""

    def __init__(self, base: nn.Linear, layers: Mapping[int, nn.Linear]) -> None:
        """Hooks `base`; `layers` are the trained heads by client."""
        self._base, self._layers = base, layers
        self._loaded: tuple[RowGroups, Tensor, Tensor | None] | None = None
        base.register_forward_hook(self._replace_output)

    def load(self, groups: RowGroups | None) -> None:
        self._loaded = None
        if groups:
            heads = {client: self._layers.get(client, self._base) for client in sorted(groups.clients)}
            weight = groups.expand({client: head.weight for client, head in heads.items()})  # (groups, classes, d)
            biases = {client: head.bias for client, head in heads.items() if head.bias is not None}
            self._loaded = groups, weight, groups.expand(biases) if biases else None  # (groups, classes)

    def _replace_output(self, base: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """(batch, ..., d) -> (batch, ..., classes)."""
        if self._loaded is None:
            return output
        groups, weight, bias = self._loaded
        logits = groups.group(inputs[0]) @ weight.mT  # (groups, tokens, classes)
        return (logits if bias is None else logits + bias.unsqueeze(1)).reshape(output.shape)


def read_factors(layer: LoraLayer, adapter: str) -> tuple[Tensor, Tensor]:
    """A (R, d_in) and B (d_out, R) of the layer's whole update B A, in the graph of the trained tensors.

    Masked rows of B are in their places and the scale is in B; a frozen delta adds its rank, without a gradient.
    """
    A, up = layer.lora_A[adapter].get_parameter("weight"), layer.lora_B[adapter]
    B: Tensor = up.get_parameter("weight")
    if isinstance(up, MaskedRows):
        B = B.new_zeros(up.width, B.shape[1]).index_copy(0, up.rows, B)
    B = B * layer.scaling[adapter]
    delta = get_frozen_delta(layer)
    if delta is None:
        return A, B
    frozen_A, frozen_B = delta.read_factors()
    return torch.cat((A, frozen_A)), torch.cat((B, frozen_B), 1)


def _read_edit(layer: LoReftLayer, adapter: str) -> tuple[Tensor, Tensor, Tensor]:
    """W - R (W alone for `direft`) and R, both (k, d), and b (k,), in the graph; k = groups * rank."""
    _, _, subtracts = layer.settings[adapter]
    R, W, b = layer.reft_R[adapter], layer.reft_W[adapter], layer.reft_b[adapter]
    return (W - R if subtracts else W).flatten(0, 1), R.flatten(0, 1), b.flatten()
