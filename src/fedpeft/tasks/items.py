"""Rows read as examples, with what dividing them among clients needs."""

import re
from dataclasses import dataclass
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.examples import Example
from fedpeft.tasks.formats import Row
from fedpeft.tasks.kinds.base import TaskKind
from fedpeft.tasks.labels import LabelIndex
from fedpeft.tasks.values import GAPS, has_control, quote

MAX_ID_BYTES = 200  # file systems take names of 255, and a folder may have a suffix
_CLIENT_ID = re.compile(r"[^/\\.*][^/\\]{0,99}")


@dataclass(frozen=True)
class Item:
    """An example, its normalised text, by which repetitions are found, and the client that a column names, or ""."""

    example: Example
    key: str
    client: str


Splits = dict[str, list[Item]]  # by split; one that the source lacks is not there
ClientSplits = dict[str, Splits]  # by client


def make_item(row: Row, kind: type[TaskKind], task: TaskConfig, client_column: str | None, labels: LabelIndex) -> Item:
    """One row as an item. Raises UserError, with the row's place, for a value that will not do."""
    example = kind.make_example(task, row, labels)
    texts = [example.text] if example.text_pair is None else [example.text, example.text_pair]
    key = "\x1f".join(" ".join(text.lower().split()) for text in texts)
    if client_column is None:
        return Item(example, key, "")
    return Item(example, key, require_client_id(row[client_column], f"{row['@where']}: column {client_column!r}"))


def require_client_id(value: Any, where: str) -> str:
    """The value as the id of a client, which names a folder. Raises UserError when it cannot be one."""
    name = "" if value is None else str(value).strip()
    if not name or name in GAPS:
        raise UserError(f"{where} names no client, received {quote(value)}; fill it or remove the row")
    is_one = not isinstance(value, list | dict | bytes) and not has_control(name)
    if not (is_one and _CLIENT_ID.fullmatch(name) and len(name.encode()) <= MAX_ID_BYTES):
        raise UserError(
            f"{where} names a client {quote(value)}; a client id is 1 to 100 characters of at most "
            f"{MAX_ID_BYTES} bytes, no slash or control character, no leading '.' or '*': rename it"
        )
    return name
