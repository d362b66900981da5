"""Each client's personal adapter as an ordinary PEFT folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from fedpeft.adapters.export import CARD
from fedpeft.config import Experiment, ModelConfig
from fedpeft.errors import UserError
from fedpeft.runs.folder import RunFolder
from fedpeft.tasks.config import TaskConfig


@dataclass(frozen=True)
class Card:
    """Where an exported adapter lies and what it was trained on, for whom predicts with it."""

    folder: Path
    model: ModelConfig
    task: TaskConfig
    labels: list[str]


def make_card(experiment: Experiment, labels: Sequence[str]) -> dict[str, Any]:
    """What stands beside every exported adapter, for whom predicts with it: model, task and labels."""
    return {"model": experiment.model.model_dump(), "task": experiment.task.model_dump(), "labels": list(labels)}


def damaged_export(run: Path, client: str, what: str) -> UserError:
    """The mistake of an exported folder that is not as it was written; `what` is wrong with it."""
    return UserError(
        f"the adapter of client {client!r} is incomplete or damaged: {' '.join(what.split())}; "
        f"put {run / 'clients' / client} back, or remove {run / 'result.json'}: "
        f"`fedpeft resume {run}` then exports the run's clients again"
    )


def read_card(run: Path, client: str) -> Card:
    """The model, task and labels of a client's exported adapter, whose files are all there.

    Raises UserError when there is no such run or client, or its folder is incomplete or damaged.
    """
    folder = run / "clients" / client / "adapter"
    if not folder.is_dir():
        raise _not_exported(run, client)
    missing = [name for name in (CARD, CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise damaged_export(run, client, f"{', '.join(missing)} missing in {folder}")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        labels = [str(label) for label in card["labels"]]
        return Card(folder, ModelConfig(**card["model"]), TaskConfig(**card["task"]), labels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_export(run, client, f"{folder / CARD} cannot be read ({error})") from error


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
    return damaged_export(run, client, f"{run / 'clients'} is missing or empty")
