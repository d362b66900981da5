"""What the layers' gates have in common: how many experts are in use, and how near a text is to a reference."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import GenerationMixin

from fedpeft.adapters.experts.config import ExpertsConfig
from fedpeft.backbones.blocks import find_blocks
from fedpeft.backbones.forward import bind_arguments
from fedpeft.backbones.heads import Pooling, pool

NAME = "expert_state"  # of the module in the model
LOCAL, MIXED = (1.0, 0.0), None  # weights of the two experts: of the first alone; by similarity


def get_shared_gate(model: nn.Module) -> "SharedGate":
    """The shared gate of a model inside PEFT's wrapper."""
    gate = getattr(model, NAME)
    assert isinstance(gate, SharedGate)
    return gate


def select_adaptively(logits: Tensor, count: Tensor) -> Tensor:
    """FedLEASE's adaptive top M: weights (..., E) from logits (..., 2 E - 1) with M = `count` (1,) experts in use.

    Of the 2 M - 1 choices the M most probable are kept and sum to 1. The first M choices are the experts, the others
    all mean the first expert, the client's own: it may take up to M shares, so that the number of experts that a token
    hears is learned. Choices 0 to M - 1 and E to E + M - 2 are in use.
    """
    experts = (logits.shape[-1] + 1) // 2
    choice = torch.arange(logits.shape[-1], device=logits.device)
    is_used = (choice < count) | ((choice >= experts) & (choice < experts + count - 1))
    probabilities = logits.masked_fill(~is_used, -torch.inf).softmax(-1)
    best, indices = probabilities.topk(experts, -1)
    best = best * (choice[:experts] < count)  # sorted: the M best
    best = best / best.sum(-1, keepdim=True)
    weights = torch.zeros_like(probabilities).scatter(-1, indices, best)
    own = weights[..., :1] + weights[..., experts:].sum(-1, keepdim=True)
    return torch.cat((own, weights[..., 1:experts]), -1)


class SharedGate(nn.Module, BaseTunerLayer):
    """A module of the whole model. Its tensors are stored and exchanged with the adapter's and never trained.

    `expert_count` (1,) of the gate "adaptive": how many experts are in use, at first 1. Of the gate "similarity":
    `expert_limit` (1,), the largest weight of the first expert; and `expert_reference` (width,), the mean of the unit
    vectors of some texts, at first zero. A text's weights are w = limit * max(0, cosine) and 1 - w, where the cosine is
    the mean of those with the texts of the reference [derived: it is the product of the text's unit vector with the
    reference]. A text's vector is its last block's state with the first expert alone, at the last token of its prompt,
    or for encoders its mean over the tokens.
    """

    adapter_layer_names = ("expert_count", "expert_limit", "expert_reference")

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.expert_count = nn.ParameterDict()
        self.expert_limit = nn.ParameterDict()
        self.expert_reference = nn.ParameterDict()
        self.fixed: tuple[float, float] | None = MIXED
        self._collected: list[Tensor] | None = None  # inside collect_vectors()
        self._argument_names = tuple(inspect.signature(model.forward).parameters)
        self._pooling: Pooling = "last" if isinstance(model, GenerationMixin) else "mean"
        self._prompt: Tensor | None = None  # (batch, length) bool, inside use_prompt()
        self._weights: Tensor | None = None  # (batch, 2) of the forward that is running
        self._is_holding = False  # inside hold_weights()
        self._real: Tensor | None = None  # (batch, length) bool, its tokens that are not padding

    def update_layer(self, adapter_name: str, config: ExpertsConfig, width: int, device: torch.device) -> None:
        """Adds an adapter."""
        if config.gate == "adaptive":
            tensors = {"count": torch.ones(1)}
        else:
            tensors = {"limit": torch.full((1,), 0.5), "reference": torch.zeros(width)}
        for name, tensor in tensors.items():
            parameters = self.get_submodule(f"expert_{name}")
            assert isinstance(parameters, nn.ParameterDict)
            parameters[adapter_name] = nn.Parameter(tensor.to(device), requires_grad=False)

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether the adapter has its tensors here."""
        return adapter_name in self.expert_count or adapter_name in self.expert_reference

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Makes adapters the active ones; nothing here trains."""
        super().set_adapter(adapter_names, inference_mode=True)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # There is no base layer. These few numbers are moved where they are used, because blocks may be on several.
        pass

    @contextmanager
    def use_weights(self, weights: tuple[float, float] | None) -> Iterator[None]:
        """Context manager in which the two experts have these weights, whatever the text; None: by similarity."""
        before, self.fixed = self.fixed, weights
        try:
            yield
        finally:
            self.fixed = before

    @contextmanager
    def collect_vectors(self) -> Iterator[list[Tensor]]:
        """Context manager whose list gets the unit vectors (batch, width) of the texts of every forward."""
        self._collected = collected = list[Tensor]()
        try:
            yield collected
        finally:
            self._collected = None

    @contextmanager
    def use_prompt(self, tokens: Tensor) -> Iterator[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt."""
        self._prompt = tokens
        try:
            yield
        finally:
            self._prompt = None

    @contextmanager
    def hold_weights(self) -> Iterator[None]:
        """Context manager in which the weights of the first forward stay while its texts grow."""
        self._is_holding, self._weights = True, None
        try:
            yield
        finally:
            self._is_holding = False

    @torch.no_grad()
    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the model: compares its texts with the reference, in a forward of their own.

        Tokens that join a key-value cache have the weights of their prompt.
        """
        name = next((name for name in self.active_adapters if name in self.expert_reference), None)
        is_held = self._is_holding and self._weights is not None
        if name is None or self.fixed is not MIXED or self.disable_adapters or is_held:
            return
        arguments = bind_arguments(self._argument_names, args, kwargs)
        cache = arguments.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            return
        names = ("input_ids", "attention_mask", "token_type_ids")
        tokens: dict[str, Tensor] = {key: arguments[key] for key in names if key in arguments}
        self._real = None if "attention_mask" not in tokens else tokens["attention_mask"] != 0
        vectors = self._embed(model, tokens)
        if self._collected is not None:
            self._collected.append(vectors)
        cosine = (vectors @ self.expert_reference[name].to(vectors.device)).clamp(min=0)  # (batch,)
        local = self.expert_limit[name].to(vectors.device) * cosine
        self._weights = torch.stack((local, 1 - local), -1)

    def _embed(self, model: nn.Module, tokens: dict[str, Tensor]) -> Tensor:
        states: list[Tensor] = []
        block = find_blocks(model)[1][-1]
        handle = block.register_forward_hook(
            lambda _, __, out: states.append(out if isinstance(out, Tensor) else out[0])
        )
        try:
            with self.use_weights(LOCAL):  # past the hooks of the model, so that nothing else begins a forward
                model.forward(**tokens, **({"use_cache": False} if "use_cache" in self._argument_names else {}))
        finally:
            handle.remove()
        mask = self._real if self._prompt is None else self._prompt
        vectors = pool(states[0].float(), mask, self._pooling)  # (batch, width)
        return nn.functional.normalize(vectors, dim=-1)

    def get_weights(self, x: Tensor) -> Tensor:
        """The weights for the tokens of x: (batch, 1, 2), or (1, tokens, 2) where a block sees no padding."""
        if self.fixed is not MIXED:
            return x.new_tensor(self.fixed)
        assert self._weights is not None  # `begin` sets it
        weights = self._weights.to(x.device)
        if len(x) == len(weights) or self._real is None:
            return weights.unsqueeze(1)
        return weights.repeat_interleave(self._real.sum(-1).to(x.device), 0).unsqueeze(0)
