"""What a report is made of: the files of runs as plain typed records, with nothing computed yet."""

import math
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

HEADLINE = ("deployed", "personal", "received", "trained")  # the first of these that a result holds is compared
Scores = dict[str, Any]  # numbers by the names of metrics; others may stand among them


class DeploymentRecord(BaseModel):
    """Which of its models each client deploys, by id."""

    model_config = ConfigDict(extra="ignore")

    choices: dict[str, str] = {}


class RunResult(BaseModel):
    """result.json, as far as reports read it; results of earlier versions lack some of it."""

    model_config = ConfigDict(extra="ignore")

    label: str
    method: str = ""
    options: dict[str, Any] = {}
    seed: int = 0
    rounds: int = 0
    metric: str | None = None
    clients: list[str] = []
    rows: dict[str, dict[str, int]] = {}
    label_fractions: dict[str, dict[str, float]] = {}
    resources: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    deployment: DeploymentRecord | None = None
    test: dict[str, Scores]
    test_by_client: dict[str, dict[str, Scores]] = {}
    adapter_parameters: int | None = None
    head_parameters: int | None = None
    bytes_down: float | None = None
    bytes_up: float | None = None
    quarantined: int = 0
    peak_memory_mib: float | None = None
    seconds: dict[str, float] = {}
    cross: dict[str, dict[str, Any]] = {}


class Environment(BaseModel):
    """environment.json: versions and machine under names of their own."""


class LogLine(BaseModel):
    """One line of metrics.jsonl; what else it holds are scores, or scalars that a client reported."""

    model_config = ConfigDict(extra="allow", strict=True)

    round: int = Field(ge=0)
    split: str
    client: str
    quarantined: str | None = None

    @property
    def names(self) -> set[str]:
        """The names of all else that it holds."""
        return set(self.model_extra or {})

    def get_number(self, name: str) -> float | None:
        """What it holds under a name, or None where that is no finite number."""
        return to_number((self.model_extra or {}).get(name))


class CostRecord(BaseModel):
    """What a method cost until it reached a target, means over the seeds that did."""

    model_config = ConfigDict(extra="ignore")

    seeds: int
    reached: int
    round: float | None = None
    bytes: float | None = None
    client_seconds: float | None = None
    peak_memory_mib: float | None = None


class TargetRecord(BaseModel):
    """A score, and what every method cost until it reached it."""

    model_config = ConfigDict(extra="ignore")

    score: float
    methods: dict[str, CostRecord]


class ComparisonFile(BaseModel):
    """compare.json, as far as reports read it."""

    model_config = ConfigDict(extra="ignore")

    name: str
    scenario: str | None = None
    environment: dict[str, Any] = {}
    experiment: dict[str, Any] = {}
    tuned_on_validation: dict[str, dict[str, float | None]] = {}
    cost_to_target: dict[str, TargetRecord] = {}
    runs: dict[str, list[RunResult]]

    @field_validator("runs")
    @classmethod
    def _require_runs(cls, runs: dict[str, list[RunResult]]) -> dict[str, list[RunResult]]:
        if not runs or not all(runs.values()):
            raise ValueError("holds no runs")
        return runs


@dataclass(frozen=True)
class RunRecord:
    """One run: its result where it is finished, and its log."""

    label: str
    seed: int
    rate: float | None
    planned_rounds: int
    result: RunResult | None
    log: list[LogLine] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def completed_rounds(self) -> int:
        """The rounds of which the log tells."""
        return max((line.round for line in self.log), default=self.result.rounds if self.result else 0)

    def get_lines(self, split: str) -> list[LogLine]:
        """The log's lines on one split: train, validation or test."""
        return [line for line in self.log if line.split == split]


@dataclass(frozen=True)
class MethodRecord:
    """One method under its label, a run per seed."""

    label: str
    runs: list[RunRecord]

    @property
    def results(self) -> list[RunResult]:
        """The results of the runs that are finished."""
        return [run.result for run in self.runs if run.result is not None]

    def average_client_scores(self, choice: str, metric: str) -> dict[str, float]:
        """Each client's test score with one of its models, over the seeds in which it has one."""
        by_client: dict[str, list[float]] = {}
        for result in self.results:
            for client, scores in result.test_by_client.get(choice, {}).items():
                number = to_number(scores.get(metric))
                if number is not None:
                    by_client.setdefault(client, []).append(number)
        return {client: mean(numbers) for client, numbers in by_client.items()}


@dataclass(frozen=True)
class ReportRecord:
    """Everything that one report shows. `source` is the file or folder that it was made from."""

    name: str
    kind: str  # "run" or "comparison"
    source: str
    scenario: str | None
    methods: list[MethodRecord]
    settings: dict[str, Any]
    environment: dict[str, Any]
    tuned: dict[str, dict[str, float | None]] = field(default_factory=dict)
    targets: dict[str, TargetRecord] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def results(self) -> list[RunResult]:
        """The results of all finished runs."""
        return [result for method in self.methods for result in method.results]

    @property
    def metric(self) -> str:
        """The score that is compared: results of earlier versions do not name it, and it was the accuracy."""
        return next((result.metric for result in self.results if result.metric), None) or "accuracy"

    @property
    def choices(self) -> list[str]:
        """The models that clients were tested with, the one that is compared first."""
        present = dict.fromkeys(choice for result in self.results for choice in result.test)
        return [c for c in HEADLINE if c in present] + [c for c in present if c not in HEADLINE]

    @property
    def clients(self) -> list[str]:
        """The ids of all clients, sorted."""
        return sorted({client for result in self.results for client in result.clients})


def to_number(value: Any) -> float | None:
    """The value as a finite number, or None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
