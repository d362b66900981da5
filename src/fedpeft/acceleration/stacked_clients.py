"""Several clients' adapters over one frozen backbone, in one forward and one backward pass. Ours [choice].

The backbone's products, nearly all of the work, are then as large as the whole batch; the adapters' own products are
batched ones (`bmm`). Rows never mix, so that a client's results and gradients are those of running it alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from fedpeft.acceleration.row_groups import RowGroups
from fedpeft.acceleration.stacked_layers import StackedBlock, StackedHead, StackedLayer, StackedLinear
from fedpeft.adapters.adapted_model import AdaptedModel
from fedpeft.adapters.names import find_interventions, find_lora_pairs, is_head
from fedpeft.adapters.reft.layer import LoReftLayer
from fedpeft.adapters.reft.prompt import PromptTracker

PEFT_PREFIX = "base_model.model."  # begins every module name in a PEFT model


class StackedClients:
    """Runs batches whose rows belong to different clients; client i has the i-th of `models`.

    The models are not changed: their tensors are read at every call, gradients arrive in them, and a new value or
    frozen delta counts from the next call on. They share one backbone and may differ in everything else: kind of
    adapter (LoRA, masked LoRA, LoReFT), ranks, layers, positions, scales, frozen deltas, heads. Masked rows save no
    memory here, because the gradient of the full B exists for a moment. One thread may use the stacked clients and
    their models at a time.
    """

    def __init__(self, models: Sequence[AdaptedModel]) -> None:
        """Raises `ValueError` for no model, models on different backbones, another kind of adapter, and a trained head
        that is not linear."""
        if not models:
            raise ValueError("Stacked clients have at least one model. Received: none")
        for model in models:
            tensor = find_unstackable(model)
            if tensor is not None:
                raise ValueError(f"Stacked clients have LoRA or LoReFT. Received: a model that trains {tensor}")
        self.models = tuple(models)
        self.backbone = copy_base_model(models[0])
        for i, model in enumerate(models):
            if _get_frozen_ids(model) != {id(parameter) for parameter in self.backbone.parameters()}:
                raise ValueError(f"Stacked models share one backbone. Received: model {i} on another than model 0")
        self.tracker = PromptTracker(self.backbone)
        self.backbone.register_forward_pre_hook(self.tracker.begin, with_kwargs=True)
        self._layers = [*self._stack_linear_layers(), *self._stack_blocks(), *self._stack_heads()]

    def assign_rows(self, clients: Sequence[int]) -> "MultiClientModel":
        """The model for batches whose i-th row belongs to `clients[i]`.

        It is fastest with each client's rows together and as many for each. Raises `ValueError` for no row and for a
        client that does not exist.
        """
        if not clients or not set(clients) <= set(range(len(self.models))):
            raise ValueError(
                f"Every row belongs to one of clients 0 to {len(self.models) - 1}. Received: {sorted(set(clients))}"
            )
        return MultiClientModel(self, RowGroups.from_clients(clients))

    @contextmanager
    def load(self, groups: RowGroups) -> Iterator[None]:
        """Context manager in which the backbone has the clients' adapters and heads; outside it is plain."""
        try:
            for layer in self._layers:
                layer.load(groups)
            yield
        finally:
            for layer in self._layers:
                layer.load(None)

    # ---- the layers, found by the names of the tensors that the models train

    def _stack_linear_layers(self) -> Iterator[StackedLayer]:
        layers_by_name: dict[str, dict[int, tuple[LoraLayer, str]]] = {}
        for i, model in enumerate(self.models):
            for name, _, _ in find_lora_pairs(model.names):
                layer = model.model.get_submodule(name)
                assert isinstance(layer, LoraLayer)
                layers_by_name.setdefault(name, {})[i] = (layer, model.model.active_adapter)
        for name, layers in layers_by_name.items():
            yield StackedLinear(self._get_base_layer(name), layers)

    def _stack_blocks(self) -> Iterator[StackedLayer]:
        layers_by_name: dict[str, dict[int, tuple[LoReftLayer, str]]] = {}
        for i, model in enumerate(self.models):
            for name in (R.removesuffix(".reft_R") for R, _, _ in find_interventions(model.names)):
                layer = model.model.get_submodule(name)
                assert isinstance(layer, LoReftLayer)
                layers_by_name.setdefault(name, {})[i] = (layer, model.model.active_adapter)
        for name, layers in layers_by_name.items():
            yield StackedBlock(self._get_base_layer(name), layers, self.tracker)

    def _stack_heads(self) -> Iterator[StackedLayer]:
        heads_by_name: dict[str, dict[int, nn.Linear]] = {}
        for i, model in enumerate(self.models):
            for name, wrapper in _find_trained_heads(model.model).items():
                head = wrapper.modules_to_save[model.model.active_adapter]
                if not isinstance(head, nn.Linear):
                    raise ValueError(f"A stacked head is one linear layer. Received: {name} of {type(head).__name__}")
                heads_by_name.setdefault(name, {})[i] = head
        for name, heads in heads_by_name.items():
            base = self._get_base_layer(name)
            assert isinstance(base, nn.Linear)
            yield StackedHead(base, heads)

    def _get_base_layer(self, name: str) -> nn.Module:
        return self.backbone.get_submodule(name.removeprefix(PEFT_PREFIX))


class MultiClientModel:
    """Stacked clients in the form in which a task runs a model (`TaskModel`), for batches of given clients' rows."""

    def __init__(self, stacked: StackedClients, groups: RowGroups) -> None:
        self._stacked, self._groups = stacked, groups

    @property
    def model(self) -> "MultiClientModel":
        """Itself, which is called and generates as the model of an `AdaptedModel` does."""
        return self

    @property
    def device(self) -> torch.device:
        """The device that inputs go to."""
        return self._stacked.models[0].device

    def use_prompt(self, tokens: Tensor) -> AbstractContextManager[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt, for adapters that edit prompts."""
        return self._stacked.tracker.use_prompt(tokens)

    def __call__(self, **inputs: Any) -> Any:
        """The backbone's output, with logits in the order of the rows.

        Leave `labels` out: a mean over rows of several clients is the loss of none. Raises `ValueError` for another
        number of rows.
        """
        self._check_rows(inputs["input_ids"])
        with self._stacked.load(self._groups):
            return self._stacked.backbone(**inputs)

    def generate(self, **inputs: Any) -> Tensor:
        """The backbone's `generate`: token ids (batch, length), or what its options ask for; `input_ids` by name.

        Each prompt is answered with its own client's adapter, with or without a key-value cache. Raises `ValueError`
        for another number of rows.
        """
        self._check_rows(inputs["input_ids"])
        with self._stacked.load(self._groups), self._stacked.tracker.hold_prompt(inputs["input_ids"].shape[1]):
            return cast(Callable[..., Tensor], self._stacked.backbone.generate)(**inputs)

    def _check_rows(self, ids: Tensor) -> None:
        if len(ids) != self._groups.rows:
            raise ValueError(f"The batch has {self._groups.rows} rows with clients. Received: a batch of {len(ids)}")


def find_unstackable(model: AdaptedModel) -> str | None:
    """The name of a tensor that `model` trains and stacked clients would leave out, or None."""
    names = {name for _, *factors in find_lora_pairs(model.names) for name in factors}
    names |= {name for triple in find_interventions(model.names) for name in triple}
    return next((name for name in model.names if name not in names and not is_head(name)), None)


def copy_base_model(model: AdaptedModel) -> nn.Module:
    """The backbone of `model` without adapter and trained head: modules of its own, the same frozen tensors."""
    copied = model.clone()
    copied.set_frozen_delta({})
    for name, head in _find_trained_heads(copied.model).items():
        copied.model.set_submodule(name, head.original_module)  # PEFT's own `unload` would leave the trained one
    base = copied.model.unload()
    assert isinstance(base, nn.Module)
    return base


def _get_frozen_ids(model: AdaptedModel) -> set[int]:
    trained = {id(parameter) for parameter in model.parameters()}
    return {id(parameter) for parameter in model.model.parameters()} - trained


def _find_trained_heads(model: nn.Module) -> dict[str, ModulesToSaveWrapper]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
