"""The fields of LoRA experts in an adapter's folder."""

from typing import Annotated, ClassVar, Literal

from peft import PeftConfig
from pydantic import Field

from fedpeft.adapters.experts.config import MOST_EXPERTS, PEFT_TYPE, ExpertsConfig
from fedpeft.adapters.stored import ModulePattern, Rank, StoredConfig


class StoredExperts(StoredConfig):
    """LoRA experts with any gate."""

    peft_type: ClassVar[str] = PEFT_TYPE
    peft_config: ClassVar[type[PeftConfig]] = ExpertsConfig

    r: Rank
    alpha: float
    experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    gate: Literal["router", "adaptive", "similarity"]
    target_modules: ModulePattern
