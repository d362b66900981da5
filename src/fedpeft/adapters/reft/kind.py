"""LoReFT, NoReFT and DiReFT as a kind of adapter."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor

from fedpeft.adapters.kind import AdapterKind
from fedpeft.adapters.reft.model import LoReftModel
from fedpeft.adapters.reft.options import ReftOptions


class ReftKind(AdapterKind):
    """Edits of hidden states at prompt positions; R keeps orthonormal rows."""

    name = "loreft"
    tuner = LoReftModel
    options = ReftOptions

    def is_decayed(self, name: str) -> bool:
        """All but R: a decayed R shrinks, and the retraction after it would turn what it stands for."""
        return not name.endswith("reft_R")

    def retract_(self, tuner: BaseTuner) -> None:
        """Puts every R back on orthonormal rows."""
        assert isinstance(tuner, LoReftModel)
        tuner.retract_()

    @contextmanager
    def use_prompt(self, tuner: BaseTuner, tokens: Tensor) -> Iterator[None]:
        """Context manager in which the interventions edit these tokens, (batch, length) bool."""
        assert isinstance(tuner, LoReftModel)
        with tuner.tracker.given(tokens):
            yield
