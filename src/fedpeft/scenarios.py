"""Scenarios: one name each for who holds what, what clients can carry, and how many take part in a round.

A scenario is settings laid over an experiment; what it does not name stays as the file has it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fedpeft.errors import UserError


@dataclass(frozen=True)
class Scenario:
    """One line on what it stands for, and its settings by dotted key."""

    about: str
    settings: Mapping[str, Any]


def _dealt(about: str, **partition: Any) -> Scenario:
    return Scenario(about, {f"partition.{key}": value for key, value in partition.items()})


FOUR_LEVELS = [
    {"share": 0.25, "rank": 8, "density": 1.0},
    {"share": 0.25, "rank": 4, "density": 0.75},
    {"share": 0.25, "rank": 2, "density": 0.5},
    {"share": 0.25, "rank": 1, "density": 0.25},
]

SCENARIOS = {
    # data
    "dirichlet-0.1": _dealt("label shares that differ greatly: Dirichlet(0.1)", kind="dirichlet", alpha=0.1),
    "dirichlet-0.5": _dealt("label shares that differ: Dirichlet(0.5)", kind="dirichlet", alpha=0.5),
    "iid": _dealt("every client alike", kind="iid"),
    "domains": _dealt("one client per value of partition.column", kind="natural", clients=None),
    "distinct": _dealt("one task per client", kind="distinct", clients=None),
    "mixed": _dealt("all tasks pooled and dealt evenly", kind="mixed"),
    # resources
    "uniform": Scenario("every client carries the same", {"resources": []}),
    "four-levels": Scenario(
        "a quarter of the clients each at rank 8, 4, 2 and 1, with densities 1, 0.75, 0.5 and 0.25 (a method that "
        "needs clients alike takes `levels: lowest`)",
        {"resources": FOUR_LEVELS},
    ),
    # availability
    "all": Scenario("every client in every round", {"training.participation": 1.0}),
    "half": Scenario("half of the clients in each round", {"training.participation": 0.5}),
    "fifth": Scenario("a fifth of the clients in each round", {"training.participation": 0.2}),
}


def overrides_of(name: str) -> list[str]:
    """The scenario as `KEY=VALUE`, as `--set` takes it. Raises UserError for a name that is none."""
    if name not in SCENARIOS:
        near = get_close_matches(name, SCENARIOS, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown scenario {name!r}{hint}; known: {', '.join(SCENARIOS)}")
    return [f"{key}={json.dumps(value)}" for key, value in SCENARIOS[name].settings.items()]  # JSON is YAML
