"""LoReFT as a PEFT tuner: finds the blocks, wraps them and keeps R orthonormal."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers import PreTrainedConfig

from fedpeft.adapters.reft.config import LoReftConfig
from fedpeft.adapters.reft.layer import LoReftLayer, orthonormalise_rows
from fedpeft.adapters.reft.prompt import PromptTracker
from fedpeft.adapters.reft.retraction import retract_after_steps
from fedpeft.backbones.blocks import make_block_pattern
from fedpeft.errors import UserError


def find_width(model: nn.Module) -> int:
    """The width of a model's hidden states. Raises `UserError` for a model whose configuration does not say it."""
    config = getattr(model, "config", None)
    width = getattr(config.get_text_config(), "hidden_size", None) if isinstance(config, PreTrainedConfig) else None
    if not isinstance(width, int):
        raise UserError(
            "LoReFT needs a transformers model whose configuration has one hidden_size; use LoRA for others. "
            f"Received: {type(model).__name__}"
        )
    return width


def check_model(model: nn.Module, config: LoReftConfig) -> None:
    """Raises `UserError`, before a model has any hook or tensor of ours, where LoReFT does not go with it."""
    config.check()
    width, parameters = find_width(model), inspect.signature(model.forward).parameters
    if config.r > width:
        raise UserError(f"r: the rank cannot exceed the hidden size {width}. Received: {config.r}")
    names = {name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD}
    if names and not names & {"input_ids", "inputs_embeds"}:
        raise UserError(
            "LoReFT edits positions of a text, which it finds in input_ids or inputs_embeds; use LoRA for other "
            f"models. Received: {type(model).__name__}, which takes {', '.join(parameters)}"
        )
    if "decoder_input_ids" in names:
        raise UserError(
            "LoReFT edits one text, and a model of encoder and decoder has two, with padding of their own; wrap a "
            f"model of the encoder or the decoder alone, or use LoRA. Received: {type(model).__name__}"
        )


class LoReftModel(BaseTuner):
    r"""The tuner that `get_peft_model(model, LoReftConfig(...))` makes; `LoReftLayer` has the edit and its parameters.

    Call the model through its own forward or the PEFT model's: a pre-hook there reads which tokens are the
    prompt. Generate with the PEFT model's `generate`, which also works without a key-value cache.

    It goes with models of one text in one list of blocks; what it does not go with is refused with the reason, at the
    latest by the first forward. ALBERT records its `hidden_states` inside its blocks, before the edit: where they
    matter, name the inner layers, `target_modules=r"encoder\.albert_layer_groups\.0\.albert_layers\.0"`.
    """

    prefix: str = "reft_"
    tuner_layer_cls = LoReftLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  (declared so by BaseTuner)

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        assert isinstance(config, LoReftConfig)
        check_model(model, config)
        self.tracker = PromptTracker(model)
        self._layers: list[LoReftLayer] = []
        self._handles = (
            model.register_forward_pre_hook(self.tracker.begin, with_kwargs=True),
            model.register_forward_pre_hook(self._note_training),
        )

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        assert isinstance(peft_config, LoReftConfig)
        check_model(self.model, peft_config)  # a second adapter's: its rank may be another
        if peft_config.target_modules is not None:
            return peft_config
        # A copy, because the caller may use the same configuration for another model, whose blocks have other names.
        return replace(peft_config, target_modules=make_block_pattern(self.model, peft_config.layers))

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, LoReftConfig)
        layer = target if isinstance(target, LoReftLayer) else LoReftLayer(target, self.tracker)
        layer.update_layer(adapter_name, peft_config, find_width(self.model))
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)
            self._layers.append(layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version moves `weight` and `bias` over, which a whole block does not have.
        setattr(parent, child_name, new_module)

    def _note_training(self, model: nn.Module, args: Any) -> None:
        if model.training and torch.is_grad_enabled():
            retract_after_steps(self)

    @property
    def constrained(self) -> list[nn.Parameter]:
        """The R (g, r, d) of every block and active `loreft` adapter; `noreft` and `direft` have no constraint."""
        names = [name for name in self.active_adapters if self._has_orthonormal_rows(name)]
        return [layer.reft_R[name] for name in names for layer in self._layers if name in layer.reft_R]

    def _has_orthonormal_rows(self, adapter: str) -> bool:
        config = self.peft_config[adapter]
        return isinstance(config, LoReftConfig) and config.variant == "loreft"

    @torch.no_grad()
    def retract_(self) -> None:
        """Makes the rows of every constrained R orthonormal again, by one batched QR for each device and shape.

        It follows each step of a torch optimiser by itself where the forward was in training mode. Call it after each
        step where it was not, or where no torch optimiser steps (DeepSpeed's).
        """
        groups: dict[tuple[torch.device, torch.Size], list[nn.Parameter]] = {}
        for R in self.constrained:
            groups.setdefault((R.device, R.shape), []).append(R)
        for rows in groups.values():
            orthonormal = orthonormalise_rows(torch.stack(list(rows)))  # (blocks, g, r, d)
            torch._foreach_copy_(list(rows), list(orthonormal.unbind(0)))

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise UserError(
                "adapter_names: LoReFT edits a whole batch with the active adapters; give each adapter a batch of its "
                f"own. Received: {kwargs['adapter_names']!r}"
            )
        # PEFT enters this context around one forward and around one `generate`: both have exactly one prompt.
        tokens = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        with self.tracker.hold_prompt(None if tokens is None else tokens.shape[1]):
            yield

    def unload(self) -> nn.Module:
        """The model without LoReFT, as it was before wrapping."""
        model = super().unload()
        for layer in self._layers:
            layer.remove_hooks()
        for handle in self._handles:
            handle.remove()
        return model
