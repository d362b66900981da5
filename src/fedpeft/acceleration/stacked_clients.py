"""Several clients' adapters over one frozen backbone, in one forward and one backward. Ours [choice].

The backbone's products, which are nearly all of the work, are then as large as the whole batch; the adapters' own
products are batched ones (`bmm`). Rows never meet, so a client's results and gradients are those of running it alone.
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
from fedpeft.adapters.names import find_interventions, find_lora_pairs
from fedpeft.adapters.reft.layer import LoReftLayer
from fedpeft.adapters.reft.positions import PromptTracker

PEFT_PREFIX = "base_model.model."  # stands before every name in a PEFT model


class Stack:
    """Runs batches whose rows belong to different slots; client i is the i-th slot.

    The slots stay what they are: their tensors are read at every call, gradients arrive in them, and what is written
    or merged into one counts from the next call on. They share one backbone and may differ in all else: LoRA, masked
    LoRA and LoReFT, ranks, layers, positions, scales, merged factors, heads. Masked rows save no memory here: B's
    gradient is full for a moment. One thread may use a stack at a time, and its slots with it.
    """

    def __init__(self, slots: Sequence[AdaptedModel]) -> None:
        """Raises `ValueError` for no slot, slots on different backbones, or a trained head that is not linear."""
        if not slots:
            raise ValueError("A stack has at least one slot. Received: none")
        self.slots = tuple(slots)
        self.model = copy_base_model(slots[0])
        for i, slot in enumerate(slots):
            if _frozen(slot) != {id(parameter) for parameter in self.model.parameters()}:
                raise ValueError(f"Stacked slots share one backbone. Received: slot {i} on another than slot 0")
        self.tracker = PromptTracker(self.model)
        self.model.register_forward_pre_hook(self.tracker.begin, with_kwargs=True)
        self._layers = [*self._linears(), *self._blocks(), *self._heads()]

    def rows(self, clients: Sequence[int]) -> "StackedRows":
        """What runs a batch whose i-th row belongs to slot `clients[i]`; best with a slot's rows together and as many
        for each. Raises `ValueError` for no row or a slot that is not there."""
        if not clients or not set(clients) <= set(range(len(self.slots))):
            raise ValueError(
                f"Every row belongs to one of slots 0 to {len(self.slots) - 1}. Received: {sorted(set(clients))}"
            )
        return StackedRows(self, RowGroups.of(clients))

    @contextmanager
    def loaded(self, groups: RowGroups) -> Iterator[None]:
        """Until the end of the block the model is the clients', and outside of it the plain backbone."""
        try:
            for layer in self._layers:
                layer.load(groups)
            yield
        finally:
            for layer in self._layers:
                layer.load(None)

    # ---- the layers, found by the names of what the slots train

    def _linears(self) -> Iterator[StackedLayer]:
        found: dict[str, dict[int, tuple[LoraLayer, str]]] = {}
        for i, slot in enumerate(self.slots):
            for name, _, _ in find_lora_pairs(slot.names):
                layer = slot.model.get_submodule(name)
                assert isinstance(layer, LoraLayer)
                found.setdefault(name, {})[i] = (layer, slot.model.active_adapter)
        for name, layers in found.items():
            yield StackedLinear(self._plain(name), layers)

    def _blocks(self) -> Iterator[StackedLayer]:
        found: dict[str, dict[int, tuple[LoReftLayer, str]]] = {}
        for i, slot in enumerate(self.slots):
            for name in (R.removesuffix(".reft_R") for R, _, _ in find_interventions(slot.names)):
                layer = slot.model.get_submodule(name)
                assert isinstance(layer, LoReftLayer)
                found.setdefault(name, {})[i] = (layer, slot.model.active_adapter)
        for name, layers in found.items():
            yield StackedBlock(self._plain(name), layers, self.tracker)

    def _heads(self) -> Iterator[StackedLayer]:
        found: dict[str, dict[int, nn.Linear]] = {}
        for i, slot in enumerate(self.slots):
            for name, wrapper in _wrapped_heads(slot.model).items():
                head = wrapper.modules_to_save[slot.model.active_adapter]
                if not isinstance(head, nn.Linear):
                    raise ValueError(f"A stacked head is one linear layer. Received: {name} of {type(head).__name__}")
                found.setdefault(name, {})[i] = head
        for name, heads in found.items():
            base = self._plain(name)
            assert isinstance(base, nn.Linear)
            yield StackedHead(base, heads)

    def _plain(self, name: str) -> nn.Module:
        return self.model.get_submodule(name.removeprefix(PEFT_PREFIX))


class StackedRows:
    """A stack that runs batches of given rows, in the form in which a task takes a slot (`Adapted`)."""

    def __init__(self, stack: Stack, groups: RowGroups) -> None:
        self._stack, self._groups = stack, groups

    @property
    def model(self) -> "StackedRows":
        """Itself: to be called and asked to generate, as a slot's model is."""
        return self

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._stack.slots[0].device

    def use_prompt(self, tokens: Tensor) -> AbstractContextManager[None]:
        """Until the end of the block LoReFT edits these tokens, (batch, length) bool."""
        return self._stack.tracker.use_prompt(tokens)

    def __call__(self, **inputs: Any) -> Any:
        """The model's output; logits in the order of the rows. Leave `labels` to the task: a mean over rows of several
        clients is nobody's loss. Raises `ValueError` for another number of rows."""
        self._check(inputs["input_ids"])
        with self._stack.loaded(self._groups):
            return self._stack.model(**inputs)

    def generate(self, **inputs: Any) -> Tensor:
        """`generate` of the model, (batch, length) token ids or what its options ask for; `input_ids` by name.

        Each prompt is answered by its own client's adapter, as alone, with or without a key-value cache. Raises
        `ValueError` for another number of rows.
        """
        self._check(inputs["input_ids"])
        with self._stack.loaded(self._groups), self._stack.tracker.hold_prompt(inputs["input_ids"].shape[1]):
            return cast(Callable[..., Tensor], self._stack.model.generate)(**inputs)

    def _check(self, ids: Tensor) -> None:
        if len(ids) != self._groups.rows:
            raise ValueError(f"These are the clients of {self._groups.rows} rows. Received: a batch of {len(ids)}")


def copy_base_model(slot: AdaptedModel) -> nn.Module:
    """The slot's backbone without adapter and trained head: own modules, the same frozen tensors."""
    copied = slot.clone()
    copied.set_frozen_delta({})
    for name, head in _wrapped_heads(copied.model).items():
        copied.model.set_submodule(name, head.original_module)  # PEFT's own unload would leave the trained one
    model = copied.model.unload()
    assert isinstance(model, nn.Module)
    return model


def _frozen(slot: AdaptedModel) -> set[int]:
    return {id(parameter) for parameter in slot.model.parameters()} - {id(parameter) for parameter in slot.parameters()}


def _wrapped_heads(model: nn.Module) -> dict[str, ModulesToSaveWrapper]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
