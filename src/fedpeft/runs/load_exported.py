"""One client's exported model in memory, from a folder that may be damaged or a stranger's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft.adapters import AdaptedModel
from fedpeft.adapters.load import StoredAdapter, read_adapter
from fedpeft.errors import UserError
from fedpeft.runs.build import load_model
from fedpeft.runs.export import Card, get_adapter_folder, make_damage_error


@dataclass(frozen=True)
class ExportedModel:
    """A client's model with its adapter, and its tokenizer."""

    model: AdaptedModel
    tokenizer: Any


def load_exported(
    run: Path, client: str, card: Card, check: Callable[[StoredAdapter], None] = lambda adapter: None
) -> ExportedModel:
    """A client's exported model, after `check` has seen its adapter and before its backbone is loaded.

    Raises UserError where the adapter is damaged or none of ours, or the backbone cannot be loaded.
    """
    with _name_damage(run, client):
        adapter = read_adapter(get_adapter_folder(run, client))
    check(adapter)
    # the adapter brings its own head
    backbone, tokenizer = load_model(card.model, card.task, len(card.labels), seed=0)
    with _name_damage(run, client):
        return ExportedModel(adapter.attach(backbone), tokenizer)


@contextmanager
def _name_damage(run: Path, client: str) -> Iterator[None]:
    """Context manager in which what is wrong with a folder is said of the client's adapter, with what to do."""
    try:
        yield
    except UserError as error:
        raise make_damage_error(run, client, str(error)) from error
