"""Clusters that are really there: groups of clients for whom the labels mean something else. Does FedHFT find them?

    python benchmarks/planted.py --data PATH [--seeds 3] [--out runs/planted] [--task sst2-2]

PATH holds glue/sst2, reviews and ag_news. Real texts; only the meaning of labels differs between groups: in group g
label y reads (y + g) mod C. `sst2-2` and `reviews-2`: two groups; `ag_news-3`: three. Learning rates are tuned on
validation with the first seed, alike for every method; the test rows are looked at once, after the last round.
Resumable. Writes results/planted_<task>.json.
"""

import argparse
import gzip
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from sklearn.metrics import adjusted_rand_score

from fedpeft.callbacks import RunCallback
from fedpeft.config import Experiment, load_experiment
from fedpeft.environment import describe_environment
from fedpeft.federation.checkpoint import load_checkpoint
from fedpeft.runs.compare_results import summarise_method
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec

HERE = Path(__file__).parent
TASKS = {  # folder, text column, classes, groups
    "sst2-2": ("glue/sst2", "sentence", 2, 2),
    "reviews-2": ("reviews/books", "text", 2, 2),
    "ag_news-3": ("ag_news", "text", 4, 3),
}
CLIENTS, ROWS = 12, {"train": 64, "validation": 30, "test": 100}


def planted(task: str, data: Path, file: Path, seed: int) -> Path:
    """Twelve clients' rows as one JSONL file, labels turned by group; client k is in group k mod groups."""
    folder, text, classes, groups = TASKS[task]
    with gzip.open(data / folder / "train.jsonl.gz", "rt", encoding="utf-8") as source:
        lines = source.read().splitlines()
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(seed)).tolist()
    seen: set[str] = set()
    rows: list[dict[str, Any]] = []
    for i in order:
        given = json.loads(lines[i])
        key = " ".join(given[text].lower().split())
        if key not in seen and len(key) > 20:
            seen.add(key)
            client = len(rows) % CLIENTS
            label = (int(given["label"]) + client % groups) % classes
            rows.append({"text": given[text], "label": label, "client": f"client-{client:02d}"})
        if len(rows) == CLIENTS * 2 * sum(ROWS.values()):
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(r) for r in rows))
    return file


def finished(experiment: Experiment, label: str, seed: int, lr: float | None, out: Path) -> dict[str, Any]:
    """One run with its checkpoint kept: the clusters are in it."""
    path = out / label / f"lr{lr:g}-seed{seed}"
    if (path / "experiment.yaml").exists():
        return resume(path, RunCallback())
    return start(RunSpec(experiment, label, seed, lr, out), path, RunCallback())


def rand_index(path: Path, groups: int) -> float | None:
    """Adjusted Rand index of the most responsible clusters against the groups planted; None without clusters."""
    shares = load_checkpoint(path / "checkpoint.safetensors")["state"].get("shares")
    if not shares:
        return None
    clients = sorted(shares)
    found = [int(shares[client].argmax()) for client in clients]
    return float(adjusted_rand_score([int(client[-2:]) % groups for client in clients], found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    parser.add_argument("--methods", nargs="+", help="labels of experiments/planted.yaml; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/planted"))
    wanted = parser.parse_args()
    for task in wanted.task:
        groups, out = TASKS[task][3], wanted.out / task
        rows, runs, tuned = [], {}, {}
        methods = load_experiment(HERE / "experiments/planted.yaml").methods
        for label in wanted.methods or methods:
            results = {}
            for seed in range(wanted.seeds):
                file = planted(task, wanted.data, (out / f"rows-{seed}.jsonl").resolve(), seed)
                overrides = [f"task.source={file}", f"name={task}"]
                if label.startswith("fedhft") and methods[label].get("clusters") != 1:
                    overrides.append(f"methods.{label}.clusters={groups}")
                experiment = load_experiment(HERE / "experiments/planted.yaml", overrides)
                rates = experiment.list_learning_rates(label)
                if seed == 0:
                    tried = {lr: finished(experiment, label, seed, lr, out) for lr in rates}
                    tuned[label] = {
                        f"{lr:g}": r["deployment"]["validation"]["deployed"]["by_client"] for lr, r in tried.items()
                    }
                    best = max(tried, key=lambda lr: tuned[label][f"{lr:g}"])
                results[seed] = finished(experiment, label, seed, best, out)
                print(task, label, seed, results[seed]["test"]["deployed"]["by_client"], flush=True)
            found = [rand_index(out / label / f"lr{best:g}-seed{s}", groups) for s in results]
            index = [value for value in found if value is not None]
            rows.append(summarise_method(label, list(results.values())) | {"rand_index": index})
            runs[label] = {str(seed): r["test"] for seed, r in results.items()}
            if index:
                print(task, label, "adjusted Rand index", mean(index), stdev(index) if len(index) > 1 else 0.0)
        record = {"name": task, "groups": groups, "clients": CLIENTS, "rows_per_client": ROWS, "seeds": wanted.seeds}
        record |= {"tuned_on_validation": tuned, "rows": rows, "test": runs, "environment": describe_environment()}
        (HERE / f"results/planted_{task}.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
