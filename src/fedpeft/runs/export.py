"""Each client's personal adapter as an ordinary PEFT folder."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from fedpeft.adapters import as_lora
from fedpeft.config import Experiment, ModelConfig
from fedpeft.errors import UserError
from fedpeft.federation.message import Message
from fedpeft.runs.build import Built
from fedpeft.runs.folder import RunFolder
from fedpeft.tasks.config import TaskConfig

_CARD = "fedpeft.json"


@dataclass(frozen=True)
class Card:
    """Where an exported adapter lies and what it was trained on, for whom predicts with it."""

    folder: Path
    model: ModelConfig
    task: TaskConfig
    labels: list[str]


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


def damaged(run: Path, client: str, what: str) -> UserError:
    """The mistake of an exported folder that is not as it was written; `what` is wrong with it."""
    return UserError(
        f"the adapter of client {client!r} is incomplete or damaged: {' '.join(what.split())}; "
        f"put {run / 'clients' / client} back, or remove {run / 'result.json'}: "
        f"`fedpeft resume {run}` then exports the run's clients again"
    )


def adapter_card(run: Path, client: str) -> Card:
    """The model, task and labels of a client's exported adapter, whose files are all there.

    Raises UserError when there is no such run or client, or its folder is incomplete or damaged.
    """
    folder = run / "clients" / client / "adapter"
    if not folder.is_dir():
        raise _not_exported(run, client)
    missing = [name for name in (_CARD, CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise damaged(run, client, f"{', '.join(missing)} missing in {folder}")
    try:
        card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        labels = [str(label) for label in card["labels"]]
        return Card(folder, ModelConfig(**card["model"]), TaskConfig(**card["task"]), labels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(run, client, f"{folder / _CARD} cannot be read ({error})") from error


def _not_exported(run: Path, client: str) -> UserError:
    held = sorted(path.name for path in (run / "clients").glob("*") if not path.name.startswith("."))
    if held:
        return UserError(f"no adapter of client {client!r} in {run}; clients: {', '.join(held)}")
    folder = RunFolder(run)
    folder.require_run()
    if folder.result is None:
        return UserError(f"{run} is not finished, so it has no adapters yet; finish it first: fedpeft resume {run}")
    if not (run / "checkpoint.safetensors").is_file():
        return UserError(f"no adapters in {run}: `fedpeft compare` exports none; `fedpeft run` does")
    return damaged(run, client, f"{run / 'clients'} is missing or empty")
