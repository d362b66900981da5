"""Clients that come after training: what does each of them get, against training alone?

    python benchmarks/joining.py --data PATH [--kind dirichlet planted] [--seeds 3] [--out runs/joining]

PATH is glue/sst2. Of twelve clients eight train and four join, with one local epoch and with five (as many as the
others had). `dirichlet`: label shares drawn from Dirichlet(0.3); `planted`: labels mean the opposite for every other
client, so half the federation misleads a joining client. Rates are fixed, no choice looks at the test rows. About ten
minutes of one core for each kind. Resumable. Writes what there is to results/joining.json.
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.environment import describe_environment
from fedpeft.runs.join import join
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.config import PartitionConfig
from fedpeft.tasks.partition import partition_examples

HERE = Path(__file__).parent
TRAIN, JOIN, ALPHA = 8, 4, 0.3
EPOCHS = (1, 5)
ROWS = 8400  # dealt over all clients; each uses a part of its own


def sample(data: Path, seed: int) -> list[dict[str, Any]]:
    """Distinct rows of SST-2's training split, drawn with the seed."""
    with gzip.open(data / "train.jsonl.gz", "rt", encoding="utf-8") as source:
        lines = source.read().splitlines()
    seen: dict[str, dict[str, Any]] = {}
    for i in torch.randperm(len(lines), generator=torch.Generator().manual_seed(seed)).tolist():
        given = json.loads(lines[i])
        if len(given["sentence"]) > 20:
            seen.setdefault(given["sentence"].strip().lower(), given)
        if len(seen) == ROWS:
            break
    return [{"text": row["sentence"], "label": int(row["label"])} for row in seen.values()]


def divided(kind: str, rows: list[dict[str, Any]], seed: int) -> list[list[dict[str, Any]]]:
    """The rows of each client."""
    clients, labels = TRAIN + JOIN, [row["label"] for row in rows]
    if kind == "planted":
        return [[row | {"label": (row["label"] + k) % 2} for row in rows[k::clients]] for k in range(clients)]
    config = PartitionConfig(kind="dirichlet", clients=clients, alpha=ALPHA, min_size=70)
    return [[rows[i] for i in part] for part in partition_examples(labels, clients, config, 0.4, seed)]


def written(kind: str, data: Path, folder: Path, seed: int) -> tuple[Path, list[Path]]:
    """The federation's file, and one of each joining client."""
    parts = divided(kind, sample(data, seed), seed)
    folder.mkdir(parents=True, exist_ok=True)
    ours = [row | {"client": f"client-{k}"} for k, part in enumerate(parts[:TRAIN]) for row in part]
    files = [folder / "federation.jsonl", *(folder / f"joining-{k}.jsonl" for k in range(JOIN))]
    for file, own in zip(files, [ours, *parts[TRAIN:]], strict=True):
        file.write_text("\n".join(map(json.dumps, own)))
    return files[0].resolve(), files[1:]


def one_seed(kind: str, label: str, data: Path, out: Path, seed: int) -> dict[str, Any]:
    """Test accuracy of the joining clients by epochs and model, and that of the clients that trained."""
    known = out / kind / f"{label}-{seed}.json"
    if known.is_file():
        return json.loads(known.read_text())
    source, files = written(kind, data, out / kind / f"rows-{seed}", seed)
    experiment = load_experiment(HERE / "experiments/joining.yaml", [f"task.source={source}"])
    path = out / kind / f"{label}-{seed}"
    if (path / "experiment.yaml").exists():
        result = resume(path, RunCallback())
    else:
        result = start(RunSpec(experiment, label, seed, None, out), path, RunCallback())
    found: dict[str, Any] = {"federation": result["test"]["deployed"]["by_client"]}
    for epochs in EPOCHS:
        scores = []
        for file in files:
            shutil.rmtree(path / "clients" / file.stem, ignore_errors=True)
            scores.append(join(path, file, file.stem, epochs)["test"])
        found[str(epochs)] = {which: mean(s[which]["accuracy"] for s in scores) for which in scores[0]}
    print(kind, label, seed, json.dumps(found), flush=True)
    known.write_text(json.dumps(found))
    return found


def spread(values: list[float]) -> dict[str, Any]:
    return {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else 0.0, "seeds": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kind", choices=("dirichlet", "planted"), nargs="+", default=["dirichlet", "planted"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/joining"))
    wanted = parser.parse_args()
    template = load_experiment(HERE / "experiments/joining.yaml")
    target = HERE / "results/joining.json"
    tables: dict[str, Any] = json.loads(target.read_text())["table"] if target.is_file() else {}
    for kind in wanted.kind:
        for label in template.methods:
            runs = [one_seed(kind, label, wanted.data, wanted.out, seed) for seed in range(wanted.seeds)]
            table: dict[str, Any] = {"federation": spread([run["federation"] for run in runs])}
            for epochs in map(str, EPOCHS):
                table[epochs] = {which: spread([run[epochs][which] for run in runs]) for which in runs[0][epochs]}
            tables.setdefault(kind, {})[label] = table
        record = {"clients": TRAIN, "joining": JOIN, "alpha": ALPHA, "seeds": wanted.seeds, "epochs": EPOCHS}
        record |= {"experiment": template.model_dump(), "table": tables, "environment": describe_environment()}
        target.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
