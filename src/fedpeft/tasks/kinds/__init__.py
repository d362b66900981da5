"""The kinds of task, by the name that `task.kind` takes: one file each, found by its name.

A new kind is one new file in this folder with one subclass of `fedpeft.tasks.kinds.base.TaskKind`, whose docstring says
what to write. `common/` holds what several kinds share.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedpeft.discovery import find_class, list_files
from fedpeft.errors import UserError

if TYPE_CHECKING:  # configurations are checked by kinds, and a program that only reads them needs no model
    import torch

    from fedpeft.tasks.config import TaskConfig
    from fedpeft.tasks.kinds.base import TaskKind
    from fedpeft.tasks.task import Task


def list_kinds() -> list[str]:
    """The names that `task.kind` takes, sorted."""
    return list_files(__path__, without=["base"])


def find_kind(name: str) -> "type[TaskKind]":
    """The kind of a name. Raises UserError for an unknown name or a file without exactly one kind."""
    from fedpeft.tasks.kinds.base import TaskKind

    if name not in list_kinds():
        raise UserError(f"task.kind: unknown kind {name!r}; known: {', '.join(list_kinds())}")
    return find_class(__name__, name, TaskKind, "task.kind", "kind of task")


def make_task(
    config: "TaskConfig",
    labels: Sequence[str],
    tokenizer: Any,
    max_length: int,
    autocast_dtype: "torch.dtype | None" = None,
) -> "Task":
    """What clients learn and how they are scored; matrices are multiplied in `autocast_dtype`, as stored when None.

    Raises UserError where the tokenizer does not serve the task.
    """
    from fedpeft.tasks.autocast import Autocast

    task = find_kind(config.kind)(config, labels, tokenizer, max_length)
    return task if autocast_dtype is None else Autocast(task, autocast_dtype)
