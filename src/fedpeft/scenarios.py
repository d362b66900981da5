"""Scenarios: one name each for a data distribution, for what clients can carry, and for how many train in a round.

A scenario is a set of overrides of an experiment; what it does not name stays as the file has it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedpeft.errors import UserError, suggest


@dataclass(frozen=True)
class Scenario:
    """One line on what it stands for, and the values that it gives to keys of the experiment, by dotted key."""

    about: str
    overrides: Mapping[str, Any]


def _make_partition_scenario(about: str, **partition: Any) -> Scenario:
    return Scenario(about, {f"partition.{key}": value for key, value in partition.items()})


FOUR_LEVELS = [
    {"fraction": 0.25, "rank": 8, "density": 1.0},
    {"fraction": 0.25, "rank": 4, "density": 0.75},
    {"fraction": 0.25, "rank": 2, "density": 0.5},
    {"fraction": 0.25, "rank": 1, "density": 0.25},
]

SCENARIOS = {
    # data distribution
    "dirichlet-0.1": _make_partition_scenario(
        "labels are distributed very unevenly over clients: Dirichlet(0.1)", kind="dirichlet", alpha=0.1
    ),
    "dirichlet-0.5": _make_partition_scenario(
        "labels are distributed unevenly over clients: Dirichlet(0.5)", kind="dirichlet", alpha=0.5
    ),
    "iid": _make_partition_scenario("every client draws from the same distribution", kind="iid"),
    "domains": _make_partition_scenario("one client per value of partition.column", kind="natural", clients=None),
    "distinct": _make_partition_scenario("one task per client", kind="distinct", clients=None),
    "mixed": _make_partition_scenario("all tasks pooled and divided evenly", kind="mixed"),
    # resources
    "uniform": Scenario("every client carries the same", {"resources": []}),
    "four-levels": Scenario(
        "a quarter of the clients each at rank 8, 4, 2 and 1, with densities 1, 0.75, 0.5 and 0.25 (a method that "
        "needs the same adapter everywhere takes `levels: lowest`)",
        {"resources": FOUR_LEVELS},
    ),
    # availability
    "all": Scenario("every client trains in every round", {"training.participation": 1.0}),
    "half": Scenario("half of the clients train in each round", {"training.participation": 0.5}),
    "fifth": Scenario("a fifth of the clients train in each round", {"training.participation": 0.2}),
}


def get_overrides(name: str) -> list[str]:
    """The scenario's overrides as `KEY=VALUE`, in the form that `--set` takes. Raises UserError for an unknown name."""
    if name not in SCENARIOS:
        raise UserError(f"unknown scenario {name!r}{suggest(name, SCENARIOS)}; known: {', '.join(SCENARIOS)}")
    return [f"{key}={json.dumps(value)}" for key, value in SCENARIOS[name].overrides.items()]  # JSON is YAML
