"""Checkpoints: one safetensors file each, written atomically, with a digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fedpeft.atomic_files import write_atomically
from fedpeft.errors import UserError
from fedpeft.federation.message import Tensors
from fedpeft.federation.state_tree import flatten, unflatten


def save_checkpoint(path: Path, tree: Any) -> None:
    """Writes a tree of plain values and tensors (see `state_tree.flatten`) with a digest of it, atomically."""
    structure, tensors = flatten(tree)
    text = json.dumps(structure)
    write_atomically(path, save(tensors, metadata={"tree": text, "digest": _digest(text, tensors)}))


def load_checkpoint(path: Path) -> Any:
    """Reads what `save_checkpoint` wrote. Raises UserError when the file is missing, not one of ours or damaged."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: nothing to resume; start it with `fedpeft run`")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata()
        text = metadata["tree"]
        if metadata.get("digest", digest := _digest(text, tensors)) != digest:  # earlier versions wrote none
            raise ValueError("it is damaged: its digest is another")
        return unflatten(json.loads(text), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:  # a stranger's bytes
        raise UserError(f"{path} is not a fedpeft checkpoint ({error}); remove the run and start it again") from error


def _digest(text: str, tensors: Tensors) -> str:
    """The SHA-256 of a tree's text and of its tensors: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
