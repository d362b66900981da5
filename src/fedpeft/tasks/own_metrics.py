"""Metrics that a program registers, by the name that `task.metric` takes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fedpeft.errors import UserError, preview

MetricFunction = Callable[[Sequence[Any], Sequence[Any]], float]
F = TypeVar("F", bound=MetricFunction)
_functions: dict[str, MetricFunction] = {}


def register_metric(name: str) -> Callable[[F], F]:
    """Decorator that makes a function of (predictions, references) the metric of this name; more must be better.

    Both are lists with an entry for each example of a client's split: labels by name for classification, numbers for
    regression, the chosen and the right choice for multiple choice, the text written and the right answer for
    generation. It returns a number and is computed where an experiment says `task: {metric: <name>}`. A name may be
    registered anew; raises UserError for one that a kind of task has.

        @fedpeft.register_metric("kappa")
        def kappa(predictions, references):
            return sklearn.metrics.cohen_kappa_score(references, predictions)
    """
    from fedpeft.tasks.kinds import find_kind, list_kinds

    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(
            f"register_metric takes a name of letters, digits and '_': @register_metric('kappa'), "
            f"received {preview(name)}"
        )
    if any(name in find_kind(kind).metrics for kind in list_kinds()) or name in ("loss", "examples"):
        raise UserError(f"register_metric: {name!r} is a metric of fedpeft's own; give another name")

    def register(function: F) -> F:
        if not callable(function):
            raise UserError(f"register_metric({name!r}): expected a function, received {preview(function)}")
        _functions[name] = function
        return function

    return register


def list_own_metrics() -> list[str]:
    """The names registered in this process, sorted."""
    return sorted(_functions)


def compute_own(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """The score by the metric's name; {} where no metric of this name is registered.

    Raises UserError where the function fails or returns anything but a finite number.
    """
    if name not in _functions:
        return {}
    try:
        value = _functions[name](list(predictions), list(references))
        score = float(value)
    except Exception as error:  # the boundary to a user's own function
        raise UserError(f"metric {name!r} failed: {type(error).__name__}: {error}") from error
    if not math.isfinite(score):
        raise UserError(f"metric {name!r} returned {preview(value)}; it must return a finite number for every client")
    return {name: score}
