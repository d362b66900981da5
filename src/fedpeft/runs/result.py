"""The result of one run, as result.json keeps it: every number says which model, when, on what, over whom."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from fedpeft.adapters import is_head
from fedpeft.engines.base import Scores
from fedpeft.federation.deployment import DeployRule, ModelChoice, select_deployed
from fedpeft.federation.message import Message
from fedpeft.runs.build import RunContext
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.log_summary import average, read_log
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
    log = read_log(folder, metric, deployment.rule)
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
        "curve": log.curve,
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
