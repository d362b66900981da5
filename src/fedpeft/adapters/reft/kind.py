"""LoReFT, NoReFT and DiReFT as a kind of adapter."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor

from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.reft.model import LoReftModel
from fedpeft.adapters.reft.options import ReftOptions
from fedpeft.adapters.reft.stored import StoredReft


class ReftKind(AdapterKind):
    """Edits of hidden states at prompt positions; R keeps orthonormal rows."""

    name = "loreft"
    tuner = LoReftModel
    options = ReftOptions
    stored = StoredReft

    def is_decayed(self, name: str) -> bool:
        """Whether weight decay applies to the named tensor: to all but R, whose rows must keep their length."""
        return not name.endswith("reft_R")

    def retract_(self, tuner: BaseTuner) -> None:
        """Makes the rows of every R orthonormal again; called after every optimiser step."""
        assert isinstance(tuner, LoReftModel)
        tuner.retract_()

    @contextmanager
    def use_prompt(self, tuner: BaseTuner, tokens: Tensor) -> Iterator[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt that is edited."""
        assert isinstance(tuner, LoReftModel)
        with tuner.tracker.use_prompt(tokens):
            yield
