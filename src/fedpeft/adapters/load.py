"""Loads an adapter from a folder that anybody may have written: nothing is imported, executed or allocated for it that
an adapter of ours does not need."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json
from safetensors import SafetensorError, safe_open
from torch import nn

from fedpeft.adapters import kinds
from fedpeft.adapters.adapted_model import AdaptedModel
from fedpeft.adapters.kind import AdapterKind
from fedpeft.errors import UserError, preview, printable
from fedpeft.small_files import read_small_file

_MAX_HEADER = 32 * 2**20  # bytes: 10,000 experts in the file need 3 MiB
_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in a folder: its kind, its configuration, and the shapes of its tensors by name."""

    kind: AdapterKind
    config: PeftConfig
    file: Path
    shapes: Mapping[str, tuple[int, ...]]

    def attach(self, model: nn.Module) -> AdaptedModel:
        """The adapter on `model`, whose head it replaces.

        Raises `UserError`, before memory is taken for it, where the model has other tensors than the file, and where
        values are not finite.
        """
        try:
            probe = AdaptedModel(PeftModel(model, self.config, low_cpu_mem_usage=True))  # without values
        except (ValueError, UserError) as error:
            raise UserError(f"{self.file.parent}: it does not fit this model: {error}") from error
        self._require_shapes({name: tuple(p.shape) for name, p in zip(probe.names, probe.parameters(), strict=True)})
        adapted = AdaptedModel(PeftModel(probe.model.unload(), self.config))
        with safe_open(self.file, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in adapted.names}
        for name, tensor, parameter in zip(tensors, tensors.values(), adapted.parameters(), strict=True):
            if not bool(torch.isfinite(tensor.to(parameter.dtype)).all()):
                raise UserError(f"{self.file}: {name} holds values that are not finite")
        adapted.write(tensors)
        return adapted

    def _require_shapes(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        for name in sorted(expected.keys() | self.shapes.keys()):
            own, needed = self.shapes.get(name), expected.get(name)
            if own != needed:
                raise UserError(
                    f"{self.file}: {printable(name, 150)} has shape {own or 'none'}, "
                    f"where {CONFIG_NAME} and this model make it {needed or 'none'}"
                )


def read_adapter(folder: Path) -> StoredAdapter:
    """The adapter in a PEFT folder, its tensors still on disk. Raises `UserError` where it is not one that we write."""
    kind, config = _read_config(folder / CONFIG_NAME)
    file = folder / SAFETENSORS_WEIGHTS_NAME
    try:
        with file.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if header > _MAX_HEADER:
            raise UserError(f"{file}: its header has {header} bytes, more than any adapter of ours")
        with safe_open(file, framework="pt") as opened:  # reads the header, and that the file is as long as it says
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            dtypes = {part.get_dtype() for part in slices.values()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error})") from error
    if not dtypes.issubset(_DTYPES):
        raise UserError(f"{file}: an adapter's tensors are {', '.join(_DTYPES)}. Received: {sorted(dtypes)}")
    return StoredAdapter(kind, config, file, shapes)


def _read_config(file: Path) -> tuple[AdapterKind, PeftConfig]:
    """The kind of adapter that an `adapter_config.json` names, and the configuration as that kind reads it."""
    try:
        values: Any = from_json(read_small_file(file))
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error})") from error
    peft_type = values.pop("peft_type", None) if isinstance(values, dict) else None
    stored = {kind.stored.peft_type: (kind, kind.stored) for kind in kinds.KINDS if kind.stored is not None}
    if not isinstance(peft_type, str) or peft_type not in stored:
        raise UserError(f"{file}: peft_type is one of {', '.join(stored)}. Received: {preview(peft_type)}")
    kind, fields = stored[peft_type]
    try:
        return kind, fields.model_validate(values).make_config()
    except ValidationError as error:
        raise UserError(f"{file}: {_describe(error.errors(include_url=False)[0])}") from error


def _describe(problem: ErrorDetails) -> str:
    """A failed validation as one line: where, what, and the value received."""
    where = printable(".".join(str(part) for part in problem["loc"]), 100)
    if problem["type"] == "value_error":  # of our own rules; one on several fields names its field itself
        return ": ".join(part for part in (where, str(problem["ctx"]["error"])) if part)
    what = problem["msg"][0].lower() + problem["msg"][1:]
    what = "is none that we write" if problem["type"] == "string_pattern_mismatch" else what
    return f"{where}: {what}. Received: {preview(problem['input'])}"
