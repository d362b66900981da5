"""The contract of an adapter kind: what training, engines and export must know of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor

from fedpeft.adapters.stored import StoredConfig

if TYPE_CHECKING:
    from fedpeft.adapters.adapted_model import AdaptedModel


class AdapterKind:
    """One kind of adapter; the defaults are right for plain LoRA.

    A new kind is a folder with a PEFT tuner (or one of PEFT's own), a model of its options and a subclass of this
    class, and one entry in `fedpeft.adapters.kinds.KINDS`.
    """

    name: ClassVar[str]  # its name in an experiment: `adapter: {kind: <name>}`
    tuner: ClassVar[type[BaseTuner]]  # its PEFT tuner, subclasses included
    # Its options in an experiment, a pydantic model: `kind: Literal[<name>]` and
    # `make_config(model, resources) -> PeftConfig`.
    options: ClassVar[type[Any]]
    # The fields of its folders' `adapter_config.json`; None: its folders are for PEFT alone, `predict` reads none.
    stored: ClassVar[type[StoredConfig] | None] = None
    # What a user who gave `resources` should know of its memory, where that is not one LoRA's.
    cost_note: ClassVar[str | None] = None

    # Whether it can be written into the base weights: an update to matrices that does not depend on the input.
    can_merge: ClassVar[bool] = False

    def is_decayed(self, name: str) -> bool:
        """Whether weight decay applies to the named tensor."""
        return True

    def retract_(self, tuner: BaseTuner) -> None:
        """Moves constrained tensors back onto their constraint; called after every optimiser step."""

    @contextmanager
    def use_prompt(self, tuner: BaseTuner, tokens: Tensor) -> Iterator[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt, for adapters that edit prompts."""
        yield

    def make_exportable(self, model: "AdaptedModel") -> PeftModel:
        """The PEFT model to save, which `PeftModel.from_pretrained` loads with the same logits."""
        return model.model


class OutputEdit:
    """Marker of a tuner layer around a transformer block that changes only the block's output."""
