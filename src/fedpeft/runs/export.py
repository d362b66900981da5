"""Each client's personal adapter as an ordinary PEFT folder."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from fedpeft.adapters import as_lora
from fedpeft.config import Experiment
from fedpeft.errors import UserError
from fedpeft.federation.message import Message
from fedpeft.runs.build import Built

_CARD = "fedpeft.json"


def export_adapters(root: Path, built: Built, experiment: Experiment) -> None:
    """Writes `<root>/<client>/adapter/` for every client; each folder appears whole or not at all."""
    federation = built.federation
    root.mkdir(exist_ok=True)
    card = {
        "model": experiment.model.model_dump(),
        "task": experiment.task.model_dump(),
        "labels": list(built.data.labels),
    }
    for spec in federation.audience:
        client = built.engine.clients[spec.id]
        message = Message(spec.id, federation.round + 1, federation.method.send(federation.state, spec))
        slot = built.engine.templates[spec.id].clone()  # its own: clients may differ in rank and layers
        federation.method.personal(slot, message, client)
        # PEFT knows neither what is merged nor masked rows: those become ordinary LoRA.
        model = as_lora(slot) if slot.merged or slot.rows() else slot.model
        temporary, target = root / f".{spec.id}.tmp", root / spec.id
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            model.save_pretrained(str(temporary / "adapter"), save_embedding_layers=False)
            (temporary / "adapter" / _CARD).write_text(json.dumps(card, indent=1))
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}; free some space and resume") from error
        finally:  # an interrupt, too, leaves nothing half-written
            shutil.rmtree(temporary, ignore_errors=True)


def exported_labels(run: Path, client: str) -> list[str]:
    """The names of the labels, by index, as a client's folder has them. Raises UserError when there is none."""
    return adapter_card(run, client)["labels"]


def adapter_card(run: Path, client: str) -> dict[str, Any]:
    """The model, task and labels of a client's exported adapter. Raises UserError when there is none."""
    file = run / "clients" / client / "adapter" / _CARD
    if not file.is_file():
        held = sorted(path.name for path in (run / "clients").glob("*") if not path.name.startswith("."))
        known = f"clients: {', '.join(held)}" if held else "the run exported none; is it finished?"
        raise UserError(f"no adapter of client {client!r} in {run}; {known}")
    return json.loads(file.read_text())
