"""What a run's logs say, read once: the one boundary at which a damaged line becomes an error."""

import json
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fedpeft.engines.base import Scores
from fedpeft.errors import UserError, printable
from fedpeft.federation.deployment import DeployRule
from fedpeft.runs.curve import make_curve
from fedpeft.runs.run_files import LOGS, RunFiles


@dataclass(frozen=True)
class LogSummary:
    """What a run's logs say: validation scores of what clients received by round, bytes per client and round, replies
    left out, and the course of score and costs (`curve.make_curve`)."""

    validation: dict[str, dict[str, float]]
    bytes_down: float
    bytes_up: float
    quarantined: int
    client_rounds: int
    left_out: dict[str, dict[str, Any]]  # by client: the rounds, and the reason of the first of them
    retried: int  # times that a client was asked again
    excluded: dict[str, list[list[int]]]  # by client: the first and the last round of each time that it sat out
    curve: dict[str, Any]


def read_log(folder: RunFiles, metric: str, rule: DeployRule) -> LogSummary:
    """The summary of both logs, each read once. Raises UserError where a line of them is damaged."""
    try:
        metrics, timings = ([json.loads(line) for line in _read_lines(folder, log)] for log in LOGS)
        train = [line for line in metrics if line["split"] == "train"]
        validation: dict[int, dict[str, Scores]] = {}
        for line in metrics:
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
            make_curve(metrics, timings, metric, rule),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise UserError(
            f"{' or '.join(LOGS)} in {folder.path} is damaged ({error!r}); put it back, or remove {folder.path} and "
            "start the run again"
        ) from error


def _read_lines(folder: RunFiles, log: str) -> list[str]:
    return folder.get_path(log).read_text(encoding="utf-8").splitlines()


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
