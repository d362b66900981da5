"""The configuration in an adapter's folder: only what we write ourselves is read, because PEFT acts on what it reads.

From an `adapter_config.json` PEFT imports modules, compiles regular expressions and allocates any rank. Here each kind
of adapter declares the fields that it writes, with bounds; every other field must stand at PEFT's default.
"""

from typing import Annotated, Any, ClassVar

from peft import PeftConfig, TaskType
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_RANK = 65536
_MAX_PATTERN = 65536  # characters: a block of 128 experts takes 15,000
_NAME = r"[A-Za-z0-9_]+(\\\.[A-Za-z0-9_]+)*"  # of a module, as re.escape writes it
_BLOCKS = rf"{_NAME}\\\.\(\d{{1,5}}(\|\d{{1,5}})*\)"


def _require_unlike_choices(pattern: str) -> str:
    """Raises ValueError for (a|a)(b|b): matching it takes the product of their numbers."""
    for group in pattern.split("(")[1:]:
        choices = group.rstrip(").\\").split("|")
        if len(set(choices)) < len(choices):
            raise ValueError("a pattern names a module twice")
    return pattern


Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=1000)]
# Regular expressions as we write them, of blocks and of modules in blocks. Without repetition and with unlike choices
# they match in the time that reading them takes.
BlockPattern = Annotated[
    str,
    StringConstraints(pattern=rf"^{_BLOCKS}$", max_length=_MAX_PATTERN),
    AfterValidator(_require_unlike_choices),
]
ModulePattern = Annotated[
    str,
    StringConstraints(pattern=rf"^{_BLOCKS}\\\.\({_NAME}(\|{_NAME})*\)$", max_length=_MAX_PATTERN),
    AfterValidator(_require_unlike_choices),
]


class StoredConfig(BaseModel):
    """The fields of one kind of adapter in `adapter_config.json`, but for `peft_type`, which names the kind.

    A kind adds its own, named as in its PEFT configuration.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    peft_type: ClassVar[str]
    peft_config: ClassVar[type[PeftConfig]]  # what `make_config` returns

    modules_to_save: list[str] | None = None
    # What PEFT writes into every configuration, and what a loaded adapter does not depend on.
    inference_mode: bool = Field(True, exclude=True)
    auto_mapping: dict[str, Any] | None = Field(None, exclude=True)
    base_model_name_or_path: str | None = Field(None, exclude=True)
    peft_version: str | None = Field(None, exclude=True)
    revision: str | None = Field(None, exclude=True)
    task_type: TaskType | None = Field(None, exclude=True, strict=False)

    @model_validator(mode="after")
    def _require_known_values(self) -> "StoredConfig":
        """Raises ValueError where a field that no adapter of ours sets is set."""
        if self.modules_to_save not in (None, ["classifier"]):
            raise ValueError("modules_to_save is neither null nor ['classifier']")
        default = self.peft_config()
        for name, value in (self.model_extra or {}).items():
            if value not in (None, False, [], {}) and value != getattr(default, name, None):
                raise ValueError(f"{name} is set, which no adapter of ours does")
        return self

    def make_config(self) -> PeftConfig:
        """The PEFT configuration, made of the declared fields alone."""
        return self.peft_config(**self.model_dump(exclude=set(self.model_extra or {})))
