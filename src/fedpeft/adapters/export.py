"""Exports an adapted model as a PEFT folder, whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedpeft.adapters.adapted_model import AdaptedModel
from fedpeft.errors import UserError

CARD = "fedpeft.json"  # the adapter's card, beside PEFT's own files: what it was trained on


def save_adapter(model: AdaptedModel, folder: Path, card: Mapping[str, Any]) -> None:
    """Writes `<folder>/adapter/`, an ordinary PEFT folder with its card, in place of whatever `folder` held.

    Raises `UserError` when it cannot be written; `folder` is then as it was.
    """
    with replace_folder(folder) as temporary:
        exportable = model.kind.make_exportable(model)
        exportable.save_pretrained(str(temporary / "adapter"), save_embedding_layers=False)
        (temporary / "adapter" / CARD).write_text(json.dumps(card, indent=1))


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Context manager with the path of a new folder beside `folder`, which takes its place at the end.

    Raises `UserError` where it cannot be written; whatever is raised inside, `folder` is then as it was.
    """
    temporary, previous = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        _replace_folder(temporary, folder, previous)
    except (OSError, SafetensorError) as error:  # the second where the disk is full in the middle of the weights
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {folder}: {reason}; free some space and resume") from error
    finally:  # after an interrupt, too, nothing half-written is left
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, folder: Path, previous: Path) -> None:
    """Renames `new` to `folder`; what `folder` held waits at `previous` meanwhile, and comes back if that fails."""
    shutil.rmtree(previous, ignore_errors=True)
    if not folder.exists():
        os.replace(new, folder)
        return
    os.replace(folder, previous)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(previous, folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)
