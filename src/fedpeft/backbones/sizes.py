"""A folder's config.json beside its weights: one that asks for far more than they hold is refused at once."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig

from fedpeft.small_files import read_small_file

_WEIGHTS = (".safetensors", ".bin")
_VALUES_PER_BYTE = 4  # of weights of two bits
_FREE_VALUES = 1 << 26  # tables that are computed, not stored: positions, causal masks
_COUNTS = re.compile(r"layer|expert|group|depth")  # what is built one by one
_FREE_COUNT = 1000
_MAX_LABELS = 100_000


def require_stored_sizes(factory: Any, folder: Path) -> None:
    """Raises ValueError where the model that `config.json` describes is many times as large as the weights' files.

    `factory` is the class that will make it; it makes one without values here, some milliseconds for each block.
    """
    weights = [file for file in folder.iterdir() if file.suffix in _WEIGHTS]
    file = folder / "config.json"
    if not weights or not file.is_file():
        return  # then there is nothing to load either, and transformers says so
    most = max(_FREE_COUNT, sum(map(_count_tensors, weights)))
    for key, value in _list_numbers(json.loads(read_small_file(file))):
        limit = _MAX_LABELS if key == "num_labels" else most if _COUNTS.search(key) else math.inf
        if value > limit:
            raise ValueError(f"config.json: {key} is {value:.6g}, far more than its weights hold.")
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = factory.from_config(config, trust_remote_code=False)
    values = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    stored = sum(file.stat().st_size for file in weights)
    if values > _VALUES_PER_BYTE * stored + _FREE_VALUES:
        raise ValueError(f"config.json describes {values:.3g} values, and the weights' files have {stored} bytes.")


def _count_tensors(file: Path) -> int:
    if file.suffix != ".safetensors":
        return 0
    with safe_open(file, framework="pt") as opened:
        return len(opened.keys())


def _list_numbers(values: Any) -> Iterator[tuple[str, float]]:
    """Every number of a JSON object and of the objects in it, with its key."""
    if isinstance(values, dict):
        for key, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield key, value
            else:
                yield from _list_numbers(value)
