"""Each client's deployed adapter as an ordinary PEFT folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from pydantic import BaseModel, ValidationError

from fedpeft.adapters.export import CARD
from fedpeft.config import Experiment, ModelConfig
from fedpeft.config.validation import first_error
from fedpeft.errors import UserError
from fedpeft.runs.folder import CHECKPOINT, RunFolder
from fedpeft.small_files import read_small_file
from fedpeft.tasks.config import TaskConfig


class Card(BaseModel):
    """What an exported adapter was trained on, for whom predicts with it."""

    model: ModelConfig
    task: TaskConfig
    labels: list[str]


def make_card(experiment: Experiment, labels: Sequence[str]) -> dict[str, Any]:
    """What stands beside every exported adapter, for whom predicts with it: model, task and labels."""
    return {"model": experiment.model.model_dump(), "task": experiment.task.model_dump(), "labels": list(labels)}


def make_damage_error(run: Path, client: str, what: str) -> UserError:
    """Builds the error for a client's exported folder that is not as it was written; `what` is wrong with it."""
    what = what.replace(f"{get_adapter_folder(run, client)}{os.sep}", "")
    return UserError(
        f"the adapter of client {client!r} is incomplete or damaged: {what}; "
        f"put {run / 'clients' / client} back, or remove {run / 'result.json'}: "
        f"`fedpeft resume {run}` then exports the run's clients again"
    )


def read_card(run: Path, client: str) -> Card:
    """The model, task and labels of a client's exported adapter, whose files are all there.

    Raises UserError when there is no such run or client, or its folder is incomplete or damaged.
    """
    clients = RunFolder(run).exported_clients
    if client not in clients:  # it is no path: "../x" is no client
        raise _explain_absence(run, client, clients)
    folder = get_adapter_folder(run, client)
    missing = [name for name in (CARD, CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise make_damage_error(run, client, f"{', '.join(missing)} missing")
    try:
        return Card.model_validate_json(read_small_file(folder / CARD))
    except ValidationError as error:
        raise make_damage_error(run, client, f"{folder / CARD} cannot be read ({first_error(error, Card)})") from error
    except UserError as error:  # of the task's source, too
        raise make_damage_error(run, client, f"{folder / CARD} cannot be read ({error})") from error


def list_exported(run: Path, clients: Sequence[str] | None) -> list[str]:
    """The clients whose adapters lie in a run, all or those named, each once. Raises UserError as `read_card` does."""
    known = RunFolder(run).exported_clients
    if not clients:
        clients = known or [""]
    for client in clients:
        read_card(run, client)
    return list(dict.fromkeys(clients))


def get_adapter_folder(run: Path, client: str) -> Path:
    """The folder of a client's exported adapter, an ordinary PEFT folder."""
    return run / "clients" / client / "adapter"


def _explain_absence(run: Path, client: str, clients: list[str]) -> UserError:
    if clients:
        return UserError(f"no adapter of client {client!r} in {run}; clients: {', '.join(clients)}")
    folder = RunFolder(run)
    folder.require_run()
    if not folder.has("result.json"):
        return UserError(f"{run} is not finished, so it has no adapters yet; finish it first: fedpeft resume {run}")
    if not folder.has(CHECKPOINT):
        return UserError(f"no adapters in {run}: `fedpeft compare` exports none; `fedpeft run` does")
    return make_damage_error(run, client, f"{run / 'clients'} is missing or empty")
