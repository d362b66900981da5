"""LoRA experts as a kind of adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor

from fedpeft.adapters.experts.model import ExpertsModel
from fedpeft.adapters.experts.options import ExpertsOptions
from fedpeft.adapters.experts.stored import StoredExperts
from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.stored import StoredConfig


class ExpertsKind(AdapterKind):
    """LoRA experts and a gate; exported as they are, because no ordinary LoRA depends on the input.

    The batched engine trains its clients alone.
    """

    name = "experts"
    tuner = ExpertsModel
    options = ExpertsOptions
    stored: ClassVar[type[StoredConfig] | None] = StoredExperts
    cost_note = "holds several LoRA of the rank given, and budgets are measured for one: its clients take more memory"

    @contextmanager
    def use_prompt(self, tuner: BaseTuner, tokens: Tensor) -> Iterator[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt that a gate compares."""
        assert isinstance(tuner, ExpertsModel)
        if tuner.shared is None:
            yield
            return
        with tuner.shared.use_prompt(tokens):
            yield
