"""The result of one run, as result.json keeps it: every number says which model, when, on what, over whom."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from fedpeft.adapters import is_head
from fedpeft.engines.base import Scores
from fedpeft.errors import UserError, printable
from fedpeft.federation.deployment import DeployRule, ModelChoice, select_deployed
from fedpeft.federation.message import Message
from fedpeft.runs.build import RunContext
from fedpeft.runs.curve import read_curve
from fedpeft.runs.folder import RunFolder
from fedpeft.tasks.examples import SPLITS
from fedpeft.tasks.summary import label_distribution


@dataclass(frozen=True)
class Deployment:
    """Which model each client deploys, and the scores after the last round: by candidate, then by client."""

    rule: DeployRule
    choices: dict[str, ModelChoice]
    validation: dict[ModelChoice, dict[str, Scores]]
    test: dict[ModelChoice, dict[str, Scores]]

    def add_deployed(self, scores: dict[ModelChoice, dict[str, Scores]]) -> dict[str, dict[str, Scores]]:
        """The scores, before them those of the model that each client deploys."""
        return {"deployed": select_deployed(self.choices, scores), **dict(scores.items())}

    def list_client_scores(self) -> dict[str, dict[str, dict[str, Scores]]]:
        """Each client's own scores, by split, then by model."""
        splits = {"validation": self.add_deployed(self.validation), "test": self.add_deployed(self.test)}
        return {
            client: {
                split: {model: by_client[client] for model, by_client in models.items()}
                for split, models in splits.items()
            }
            for client in self.choices
        }


def summarise(
    experiment: dict[str, Any],
    context: RunContext,
    deployment: Deployment,
    folder: RunFolder,
    seconds: dict[str, float],
    peak_mib: float,
) -> dict[str, Any]:
    """The record that tables and comparisons read. Accuracies are fractions in 0..1, bytes are per client and round."""
    metric = context.task.metric
    log = read_log(folder, metric)
    validation, test = (deployment.add_deployed(scores) for scores in (deployment.validation, deployment.test))
    rounds = context.federation.round
    ((label, options),) = experiment["methods"].items()
    adapter, head = count_parameters(context)
    return {
        "label": label,
        "method": options["method"],
        "options": options,
        "seed": experiment["seed"],
        "rounds": rounds,
        "metric": metric,
        "clients": [spec.id for spec in context.federation.evaluation_clients],
        "rows": {
            client.id: {split: len(getattr(client, split)) for split in SPLITS} for client in context.data.clients
        },
        "label_fractions": {row["client"]: row["labels"] for row in label_distribution(context.data)},
        "resources": {spec.id: asdict(spec.resources) for spec in context.federation.specs},
        "notes": list(context.data.notes),
        "deployment": {
            "rule": deployment.rule,
            "choices": deployment.choices,
            "validation": {model: average(by_client, metric) for model, by_client in validation.items()},
        },
        "test": {model: average(by_client, metric) for model, by_client in test.items()},
        "test_by_client": test,
        "validation": log.validation,
        "curve": read_curve(folder, metric, deployment.rule),
        "adapter_parameters": adapter,
        "head_parameters": head,
        "bytes_down": log.bytes_down,
        "bytes_up": log.bytes_up,
        "quarantined": log.quarantined,
        "client_rounds": log.client_rounds,
        "left_out": log.left_out,
        "retried": log.retried,
        "excluded": log.excluded,
        "peak_memory_mib": round(peak_mib, 1),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


@dataclass(frozen=True)
class LogSummary:
    """What a run's metrics.jsonl says: validation scores of what clients received by round, bytes per client and
    round, replies left out."""

    validation: dict[str, dict[str, float]]
    bytes_down: float
    bytes_up: float
    quarantined: int
    client_rounds: int
    left_out: dict[str, dict[str, Any]]  # by client: the rounds, and the reason of the first of them
    retried: int  # times that a client was asked again
    excluded: dict[str, list[list[int]]]  # by client: the first and the last round of each time that it sat out


def read_log(folder: RunFolder, metric: str) -> LogSummary:
    """The summary of the log. Raises UserError where a line of it is damaged."""
    file = folder.get_path("metrics.jsonl")
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        train = [line for line in lines if line["split"] == "train"]
        validation: dict[int, dict[str, Scores]] = {}
        for line in lines:
            if line["split"] == "validation" and line.get("model") != "trained":
                validation.setdefault(line["round"], {})[line["client"]] = line
        sent = [line["bytes_up"] for line in train if line["bytes_up"]]  # by those whose reply came
        return LogSummary(
            {str(round_): average(scores, metric) for round_, scores in sorted(validation.items())},
            mean(line["bytes_down"] for line in train),
            mean(sent) if sent else 0.0,
            sum("quarantined" in line for line in train),
            len(train),
            _list_left_out(train),
            sum(line.get("retried", 0) for line in train),
            _list_exclusions(train),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise UserError(
            f"{file} is damaged ({error!r}); put it back, or remove {folder.path} and start the run again"
        ) from error


def _list_left_out(train: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By client whose replies did not come or could not be used: the rounds, and the reason of the first of them."""
    left_out: dict[str, dict[str, Any]] = {}
    for line in train:
        if "quarantined" in line:
            entry = left_out.setdefault(line["client"], {"rounds": [], "reason": printable(line["quarantined"], 200)})
            entry["rounds"].append(line["round"])
    return left_out


def _list_exclusions(train: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
    """By client that was excluded: the first and the last round of each time that it sat out."""
    excluded: dict[str, list[list[int]]] = {}
    last_round = max(line["round"] for line in train)
    for line in train:
        if line.get("readmitted"):  # maybe earlier than planned, because the quorum needed it
            span = excluded[line["client"]][-1]
            span[1] = min(span[1], line["round"] - 1)
        if "excluded_until" in line and line["round"] < last_round:
            span = [line["round"] + 1, min(line["excluded_until"], last_round)]
            excluded.setdefault(line["client"], []).append(span)
    spans = {client: [span for span in own if span[0] <= span[1]] for client, own in excluded.items()}
    return {client: own for client, own in spans.items() if own}


def average(by_client: dict[str, Scores], metric: str) -> dict[str, float]:
    """The metric over clients with equal weight, over examples, and of the worst client; every score over clients."""
    values = [scores[metric] for scores in by_client.values()]
    examples = sum(scores["examples"] for scores in by_client.values())
    first, *others = by_client.values()
    names = [name for name, value in first.items() if isinstance(value, float) and all(name in o for o in others)]
    return {
        "by_client": mean(values),
        "by_example": sum(s[metric] * s["examples"] for s in by_client.values()) / examples,
        "worst_client": min(values),
        **{name: mean(scores[name] for scores in by_client.values()) for name in names},
    }


def compute_cross_matrix(context: RunContext, choices: Mapping[str, ModelChoice]) -> dict[str, dict[str, float]]:
    """The metric of every client's deployed model (outer key) on every client's test rows (inner key)."""
    scores = context.federation.cross_evaluate("test", choices)
    return {model: {rows: s[context.task.metric] for rows, s in row.items()} for model, row in scores.items()}


def count_parameters(context: RunContext) -> tuple[int, int]:
    """Parameters of adapter and head that a client trains in a round; their means, where clients differ."""
    federation, adapters, heads = context.federation, [], []
    for spec in federation.evaluation_clients:
        initial, template = context.initial[spec.id], context.templates[spec.id]
        first = Message(spec.id, 1, federation.method.send(federation.state, spec))
        sizes = {name: initial[name].numel() for name in federation.method.trainable_names(template, first)}
        heads.append(sum(size for name, size in sizes.items() if is_head(name)))
        adapters.append(sum(sizes.values()) - heads[-1])
    return round(mean(adapters)), round(mean(heads))
