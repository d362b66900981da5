"""The tables of plans/methods.yaml from results/<table>_*.json: scores, differences over federations, costs.

    python benchmarks/methods_tables.py

prints them; tables.py puts them into results/README.md.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import yaml

from fedpeft.analysis.paired import Interval, estimate_difference, pair_scores
from fedpeft.analysis.ranks import average_ranks

HERE = Path(__file__).parent
PLAN, RESULTS = HERE / "plans/methods.yaml", HERE / "results"
Found = Mapping[str, dict[str, Any]]  # comparisons by federation
Scores = dict[int, dict[str, float]]  # by seed, then by client
RIVALS = ("hetlora", "flora", "flexlora", "fedit")  # FedHFT's


def read_table(table: str, folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The comparisons of one table that are there, by federation."""
    names = yaml.safe_load(PLAN.read_text())["tables"][table]["federations"]
    files = {name: folder / f"{table}_{name}.json" for name in names}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def read_scores(record: Mapping[str, Any], label: str) -> Scores:
    """Test scores in percent of the deployed models."""
    return {
        run["seed"]: {c: 100 * s[run["metric"]] for c, s in run["test_by_client"]["deployed"].items()}
        for run in record["runs"][label]
    }


def average_scores(parts: Sequence[Scores]) -> Scores:
    """The mean of several methods, seed by seed and client by client, over the seeds that all have."""
    seeds = set.intersection(*(set(part) for part in parts))
    return {seed: {c: mean(part[seed][c] for part in parts) for c in parts[0][seed]} for seed in sorted(seeds)}


def estimate_over_federations(found: Found, label: str, others: Sequence[str]) -> Interval | None:
    """`label` minus the mean of `others`, over all federations that have them; seeds of all are drawn together."""
    differences: list[np.ndarray] = []
    for record in found.values():
        if label in record["runs"] and all(other in record["runs"] for other in others):
            rivals = average_scores([read_scores(record, other) for other in others])
            differences += pair_scores(read_scores(record, label), rivals)
    return estimate_difference(differences)


def describe(interval: Interval | None) -> str:
    """As points with the interval."""
    return "-" if interval is None else f"{interval.mean:+.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def format_scores(record: Mapping[str, Any], label: str) -> str:
    """Mean and standard deviation over seeds."""
    if label not in record["runs"]:
        return "-"
    values = [mean(by_client.values()) for by_client in read_scores(record, label).values()]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def list_labels(found: Found) -> list[str]:
    """Every method of any federation, in order."""
    return list(dict.fromkeys(label for record in found.values() for label in record["runs"]))


def get_row(record: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The row of one method."""
    return next(row for row in record["rows"] if row["label"] == label)


def make_score_rows(found: Found, reference: str) -> list[list[str]]:
    """A row for each method: its scores by federation, their mean, rank, candidates, sizes against the reference's."""
    ranks = average_ranks({
        name: {label: get_row(record, label)["deployed"]["mean"] for label in record["runs"]}
        for name, record in found.items()
    })  # fmt: skip
    rows = []
    for label in list_labels(found):
        own = [get_row(record, label) for record in found.values() if label in record["runs"]]
        whole = len(own) == len(found)
        candidates = [
            f"{100 * mean(row[model]['mean'] for row in own):.1f}" if all(row[model] for row in own) else "-"
            for model in ("received", "trained")
        ]
        rows.append([
            label, *(format_scores(record, label) for record in found.values()),
            f"{100 * mean(row['deployed']['mean'] for row in own):.1f}" if whole else "-",
            f"{ranks[label]:.1f}" if label in ranks else "-", *candidates, *compare_sizes(found, label, reference),
        ])  # fmt: skip
    return rows


def compare_sizes(found: Found, label: str, reference: str) -> list[str]:
    """Bytes both ways, the head included, and trained parameters without the head against the reference's, as means
    over the federations that have both."""
    records = [record for record in found.values() if label in record["runs"] and reference in record["runs"]]
    pairs = [(get_row(record, label), get_row(record, reference)) for record in records]
    sums = [[row["bytes_up"]["mean"] + row["bytes_down"]["mean"] for row in pair] for pair in pairs]
    sizes = [[row["adapter_parameters"] for row in pair] for pair in pairs]
    return [format_ratio(mean(own / other for own, other in values)) if values else "-" for values in (sums, sizes)]


def format_ratio(ratio: float) -> str:
    """As 1/N where it is below one."""
    return f"{ratio:.1f}" if ratio >= 1 else f"1/{1 / ratio:.1f}" if ratio > 0 else "0"


def make_difference_rows(found: Found, ours: Sequence[str], others: Sequence[str]) -> list[list[str]]:
    """Ours minus each other method, over all federations."""
    return [
        [label, *(describe(estimate_over_federations(found, label, [other])) for other in others)] for label in ours
    ]


def make_cost_rows(found: Found, rivals: Sequence[str], labels: Sequence[str]) -> list[list[str]]:
    """Client seconds until a validation score first reaches the best rival's last one, by federation."""
    rows = []
    for name, record in found.items():
        scores = {
            label: record["cost_to_target"][label]["score"] for label in rivals if label in record["cost_to_target"]
        }
        if not scores:
            continue
        best = max(scores, key=scores.__getitem__)
        costs = record["cost_to_target"][best]["methods"]
        cells = []
        for label in labels:
            cost = costs.get(label)
            reached = bool(cost and cost["reached"])
            cells.append(f"{cost['client_seconds']:.0f} ({cost['reached']}/{cost['seeds']})" if reached else "- (0)")
        rows.append([name, f"{best} {100 * scores[best]:.1f}", *cells])
    return rows


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, align, *rows])


def describe_machine(found: Found) -> str:
    """Processor and versions of the first comparison; how many seeds of each."""
    env = next(iter(found.values()))["environment"]
    versions = ", ".join(f"{name} {env[name]}" for name in ("python", "torch", "transformers", "peft"))
    seeds = ", ".join(f"{name} {len(record['seeds'])}" for name, record in found.items())
    return f"Seeds: {seeds}. {env['processor']}, {env['cores']} cores, one thread; {versions}."


def make_section(table: str, title: str, ours: Sequence[str], others: Sequence[str]) -> str:
    """One table as Markdown; empty where there is no result."""
    found = read_table(table)
    if not found:
        return ""
    labels = list_labels(found)
    ours, others = [label for label in ours if label in labels], [label for label in others if label in labels]
    headings = ["method", *found, "mean", "rank", "received", "trained", "bytes", "parameters"]
    parts = [
        f"## {title}",
        "Test accuracy (%) of the models that clients deploy by their own validation rows; received, trained: what "
        f"they chose from; bytes both ways with the head, and adapter parameters, of fedit's. "
        f"{describe_machine(found)}",
        markdown(headings, make_score_rows(found, "fedit")),
        "Differences in points over all federations with intervals of 95 %, paired by seed and client:",
        markdown(["minus", *others], make_difference_rows(found, ours, others)),
    ]
    if any(record["cost_to_target"] for record in found.values()) and table == "levels":
        rivals = [label for label in RIVALS if label in labels]
        means = [[label, describe(estimate_over_federations(found, label, rivals))] for label in ours]
        parts += [
            f"Minus the mean of {', '.join(rivals)}:", markdown(["", "points"], means),
            "Client seconds until the validation score of the deployed models first reaches the best rival's last one "
            "(seeds that reach it):",
            markdown(["", "target", *rivals, *ours], make_cost_rows(found, rivals, [*rivals, *ours])),
        ]  # fmt: skip
    return "\n\n".join(parts)


def make_sections() -> list[str]:
    """All tables that have results."""
    tables = yaml.safe_load(PLAN.read_text())["tables"]
    sections = [make_section(name, plan["title"], plan["ours"], plan["others"]) for name, plan in tables.items()]
    return [section for section in sections if section]


if __name__ == "__main__":
    print("\n\n".join(make_sections()))
