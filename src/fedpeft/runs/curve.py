"""The course of a run: validation score and costs after each round that was validated."""

from statistics import mean
from typing import Any

from fedpeft.engines.base import Scores
from fedpeft.federation.deployment import DeployRule, ModelChoice, choose_models, select_deployed


def make_curve(
    metrics: list[dict[str, Any]], timings: list[dict[str, Any]], metric: str, rule: DeployRule
) -> dict[str, Any]:
    """The run's curve from the lines of its logs: `points` as `analysis.cost_to_target.CurvePoint` has them, and whose
    score it is.

    `model` is `deployed` where both candidates were validated in each of these rounds (`training.validate_candidates`),
    so that each client's choice is known, else `received`. Raises KeyError, TypeError, ValueError or AttributeError for
    lines that are none of a run's.
    """
    validated: dict[int, dict[ModelChoice, dict[str, Scores]]] = {}  # by round, then by model, then by client
    sent: dict[int, int] = {}  # bytes by round
    for line in metrics:
        if line["split"] == "validation":
            model: ModelChoice = "trained" if line.get("model") == "trained" else "received"
            validated.setdefault(line["round"], {}).setdefault(model, {})[line["client"]] = line
        elif line["split"] == "train":
            sent[line["round"]] = sent.get(line["round"], 0) + line["bytes_down"] + line["bytes_up"]
    has_both = all(len(by_model) == 2 for by_model in validated.values())
    points, total, seconds, peak = [], 0, 0.0, None
    for timing in sorted(timings, key=lambda line: int(line["round"])):
        round_ = timing["round"]
        total += sent.get(round_, 0)
        seconds += sum(timing["client_seconds"].values())
        peak = max((mib for mib in (peak, timing.get("peak_memory_mib")) if mib is not None), default=None)
        if round_ in validated:
            by_model = validated[round_]
            choices = choose_models(rule, sorted(by_model["received"]), by_model, metric) if has_both else {}
            scores = select_deployed(choices, by_model) if has_both else by_model["received"]
            score = mean(own[metric] for own in scores.values())
            costs = {"bytes": total, "client_seconds": round(seconds, 2), "peak_memory_mib": peak}
            points.append({"round": round_, "score": score, **costs})
    return {"model": "deployed" if has_both else "received", "points": points}
