"""LoRA experts as a PEFT tuner."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters.experts.config import PEFT_TYPE, ExpertsConfig
from fedpeft.adapters.experts.gate import NAME, SharedGate
from fedpeft.adapters.experts.layer import ExpertsLayer
from fedpeft.adapters.reft.model import find_width
from fedpeft.adapters.register import register
from fedpeft.errors import UserError


class ExpertsModel(BaseTuner):
    """The tuner that `get_peft_model(model, ExpertsConfig(...))` makes."""

    prefix: str = "expert_"
    tuner_layer_cls = (ExpertsLayer, SharedGate)  # type: ignore[assignment]
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  (declared so by BaseTuner)

    @property
    def shared(self) -> SharedGate | None:
        """What the layers' gates have in common; None for routers, which have nothing."""
        gate = getattr(self.model, NAME, None)
        return gate if isinstance(gate, SharedGate) else None

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        assert isinstance(peft_config, ExpertsConfig)
        peft_config.check()
        return peft_config

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
        assert isinstance(peft_config, ExpertsConfig)
        base = target.get_base_layer() if isinstance(target, ExpertsLayer) else target
        if not isinstance(base, nn.Linear | Conv1D):
            raise UserError(
                f"target_modules: experts go on linear layers. Received: {current_key}, a {type(base).__name__}"
            )
        if peft_config.gate != "router":
            self._require_shared(adapter_name, peft_config)
        layer = target if isinstance(target, ExpertsLayer) else ExpertsLayer(target, self.shared)
        layer.update_layer(adapter_name, peft_config)
        if layer is not target:
            setattr(parent, target_name, layer)

    def _require_shared(self, adapter_name: str, config: ExpertsConfig) -> None:
        """Gives the model its shared gate, and the gate the adapter, where that is not done yet.

        Not before the first layer is replaced: PEFT takes a model that has a tuner layer for one that it froze already.
        """
        if self.shared is None:
            shared = SharedGate(self.model)
            self.model.add_module(NAME, shared)
            self._handle = self.model.register_forward_pre_hook(shared.begin, with_kwargs=True)
        assert self.shared is not None
        if not self.shared.has_adapter(adapter_name):
            device = next(self.model.parameters()).device
            self.shared.update_layer(adapter_name, config, find_width(self.model), device)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise UserError(
                "adapter_names: experts take a whole batch with the active adapters; give each adapter a batch of its "
                f"own. Received: {kwargs['adapter_names']!r}"
            )
        # PEFT enters this context around one forward and around one `generate`: both have one text for each row.
        with nullcontext() if self.shared is None else self.shared.hold_weights():
            yield

    def unload(self) -> nn.Module:
        """The model without experts, as it was before wrapping."""
        if self.shared is not None:
            self._handle.remove()
            delattr(self.model, NAME)
        return super().unload()


register(PEFT_TYPE, ExpertsConfig, ExpertsModel)
