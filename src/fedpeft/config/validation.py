"""A failed validation as one line."""

import re

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedpeft.errors import preview, printable, suggest

# What pydantic puts into a path for each form that a value may have: `layers.list[int].0`, or last, `folder.str`.
_FORM = re.compile(r"(literal|list|dict|constrained-\w+|function-\w+)\[.*\]")
_LAST_FORMS = ("str", "bool", "int", "float", "none")
_OF_KEYS = ("extra_forbidden", "missing")  # problems whose path ends in the key itself, whatever its name
_OF_CLASS = re.compile(r" or instance of \w+")  # what only a program could give
_PART = 60  # characters of a key that a message shows


def first_error(error: ValidationError, model: type[BaseModel], prefix: tuple[str, ...] = ()) -> str:
    """The first problem of a validation as one line: where, what, the value received, and a near name."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    path = _find_path(problem)
    where = ".".join(printable(part, _PART) for part in (*prefix, *path))
    if problem["type"] == "extra_forbidden":
        known = _list_fields(model, path[:-1])
        return f"unknown key {where!r}{suggest(path[-1], known)}; known: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"missing key {where!r}"
    if problem["type"] == "value_error":  # of keys that do not go together: the message says what was received
        return ": ".join(part for part in (where, str(problem["ctx"]["error"])) if part)
    reasons = [_lower(other["msg"]) for other in problems if _find_path(other) == path]
    reason = f"{' or '.join(dict.fromkeys(reasons))}, received {preview(problem['input'])}"
    return f"{where}: {reason}" if where else reason


def _find_path(problem: ErrorDetails) -> list[str]:
    """The keys and indices of a problem, without the forms that a value was tried as."""
    path = list(problem["loc"])
    if problem["type"] not in _OF_KEYS and path and path[-1] in _LAST_FORMS:
        path.pop()
    last = path.pop() if problem["type"] in _OF_KEYS else None
    keys = [str(part) for part in path if not (isinstance(part, str) and _FORM.fullmatch(part))]
    return keys if last is None else [*keys, str(last)]


def _lower(message: str) -> str:
    message = _OF_CLASS.sub("", message)
    return message[0].lower() + message[1:]


def _list_fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the model at a path inside a model."""
    for part in path:
        field = model.model_fields.get(part)
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return list(model.model_fields)
