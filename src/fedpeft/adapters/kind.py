"""What everybody else must know of one kind of adapter: the contract of a folder in this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor

if TYPE_CHECKING:
    from fedpeft.adapters.adapted_model import AdaptedModel


class AdapterKind:
    """One kind of adapter, as engines and training need to know it. What is not overridden is as for plain LoRA.

    A kind is a folder with a PEFT tuner, its options and one subclass of this, and a line in
    `fedpeft.adapters.KINDS`.
    """

    name: ClassVar[str]  # as `adapter: {kind: ...}` names it in an experiment
    tuner: ClassVar[type[BaseTuner]]  # the PEFT tuner; subclasses of it are of this kind too
    options: ClassVar[type[Any]]  # what an experiment may say of it; its `make_config` makes the PEFT configuration

    def is_decayed(self, name: str) -> bool:
        """Whether weight decay applies to the named tensor."""
        return True

    def retract_(self, tuner: BaseTuner) -> None:
        """Puts constrained tensors back where they belong; called after every optimiser step."""

    @contextmanager
    def use_prompt(self, tuner: BaseTuner, tokens: Tensor) -> Iterator[None]:
        """Context manager in which `tokens` (batch, length) bool are the prompt, for adapters that edit prompts."""
        yield

    def make_exportable(self, model: "AdaptedModel") -> PeftModel:
        """The PEFT model to save: loadable by `PeftModel.from_pretrained` with the same logits."""
        return model.model


class OutputEdit:
    """Marks a tuner layer around a transformer block that changes the block's output only, not what it computes."""
