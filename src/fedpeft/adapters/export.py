"""An adapted model as a PEFT folder that appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedpeft.adapters.adapted_model import AdaptedModel
from fedpeft.errors import UserError

CARD = "fedpeft.json"  # beside PEFT's own files: what the adapter was trained on


def save_adapter(model: AdaptedModel, folder: Path, card: Mapping[str, Any]) -> None:
    """Writes `<folder>/adapter/`, an ordinary PEFT folder with its card, in place of what was at `folder`.

    Raises `UserError` when it cannot be written; what was there before is then intact.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        exportable = model.kind.make_exportable(model)
        exportable.save_pretrained(str(temporary / "adapter"), save_embedding_layers=False)
        (temporary / "adapter" / CARD).write_text(json.dumps(card, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; free some space and resume") from error
    finally:  # an interrupt, too, leaves nothing half-written
        shutil.rmtree(temporary, ignore_errors=True)
