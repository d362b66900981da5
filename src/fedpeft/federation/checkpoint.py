"""Atomic checkpoints: one safetensors file that is either the old one or the new one, whatever happens."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fedpeft.errors import UserError
from fedpeft.federation.state_tree import flatten, unflatten

TEMPORARY = ".tmp"  # ends the names of files that are not finished yet


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary file beside `path`, fsync, rename, fsync of the folder. Nothing half-written is ever at `path`.

    Raises UserError (disk full, no permission); the temporary file is removed and the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there before is intact, "
            "free some space or choose another folder and resume"
        ) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_checkpoint(path: Path, tree: Any) -> None:
    """Writes a tree of plain values and tensors (see `tree.flatten`) atomically."""
    structure, tensors = flatten(tree)
    write_atomically(path, save(tensors, metadata={"tree": json.dumps(structure)}))


def load_checkpoint(path: Path) -> Any:
    """Reads what `save_checkpoint` wrote. Raises UserError when the file is missing or not one of ours."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: nothing to resume; start it with `fedpeft run`")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            structure = json.loads(file.metadata()["tree"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a fedpeft checkpoint ({error}); remove the run and start it again") from error
    return unflatten(structure, tensors)
