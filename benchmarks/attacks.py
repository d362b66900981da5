"""One of five clients is hostile in every round: what the honest ones lose, by method and by what it sends.

    python benchmarks/attacks.py [--seeds 2] [--rounds 8] [--out runs/attacks]

A tiny BERT and a task of words, so that hundreds of runs take minutes. Accuracy is the honest clients' on their test
rows, deployed as received, without and with the attack; `left_out` and `cut_down` count the attacker's replies that the
screen refused and shrank. Resumable. Writes results/attacks.json.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tiny import tiny_model

from fedpeft.aggregation import polar
from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.environment import describe_environment
from fedpeft.errors import UserError
from fedpeft.methods import find_method, register_method
from fedpeft.runs.grid import find_folder, get_or_run
from fedpeft.runs.spec import RunSpec

HERE = Path(__file__).parent
CLIENTS, ATTACKER = 5, "client-0"
RATES = {"fedit": 5e-3, "fedavg_loreft": 2e-2, "fedreft": 2e-2, "fedhft": 5e-3}
# What the attacker makes of a tensor that it was sent (`start`) and its honestly trained one (`end`).
ATTACKS = {
    "29 times as far": lambda start, end, draw: start + 29 * (end - start),
    "2.4 times as far": lambda start, end, draw: start + 2.4 * (end - start),
    "reversed, twice as far": lambda start, end, draw: start - 2 * (end - start),
    "random, twice as far": lambda start, end, draw: start + 2 * draw_like(end - start, draw),
    "not a number": lambda start, end, draw: end * torch.nan,
    "zeros": lambda start, end, draw: torch.zeros_like(end),
}


def draw_like(change: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Noise of the norm of `change`."""
    noise = torch.randn(change.shape, generator=draw)
    return noise * (change.norm() / noise.norm())


def attack(kind: Any, edit: Any) -> Any:
    """The method `kind` with one client that edits each of its replies; what must be orthonormal stays so."""

    class Attacked(kind):
        def train(self, model: Any, message: Any, client: Any, *rest: Any) -> Any:
            reply = super().train(model, message, client, *rest)
            if client.spec.id != ATTACKER:
                return reply
            draw, edited = torch.Generator().manual_seed(message.round), dict(reply.tensors)
            for name, end in reply.tensors.items():
                if end.is_floating_point():
                    edited[name] = edit(message.tensors.get(name, torch.zeros_like(end)), end, draw)
                    if name.endswith("reft_R") and bool(edited[name].any()) and bool(edited[name].isfinite().all()):
                        edited[name] = polar(edited[name])
            return replace(reply, tensors=edited)

    return Attacked


def write_task(file: Path, rows: int = 1500) -> Path:
    """A JSONL file: the label is which of two sets of words three of six words are from."""
    draw, lines = random.Random(0), dict[str, int]()
    while len(lines) < rows:
        label = draw.randrange(2)
        words = [f"w{draw.randrange(20 * label, 20 * label + 20)}" for _ in range(3)]
        words += [f"w{draw.randrange(40, 60)}" for _ in range(3)]
        draw.shuffle(words)
        lines[" ".join(words)] = label
    file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in lines.items()))
    return file


def run_cell(label: str, method: str, rounds: int, seeds: int, out: Path) -> dict[str, Any]:
    """Accuracy of the honest clients by seed, and what became of the attacker's replies; a run may have to stop."""
    raw = {
        "name": "attacks",
        "model": {"name": str((out / "model").resolve()), "max_length": 8},
        "task": {"source": str((out / "task.jsonl").resolve())},
        "partition": {"kind": "iid", "clients": CLIENTS, "max_train": 64, "max_validation": 16, "max_test": 100},
        "training": {"rounds": rounds, "batch_size": 8, "evaluate_every": 0, "deploy": "received"},
        "methods": {label: {"method": method, "lr": RATES[label]}},
    }
    file = out / "experiment.yaml"
    file.write_text(json.dumps(raw))
    accuracies, left_out, cut_down, stopped = [], 0, 0, []
    for seed in range(seeds):
        spec, folder = RunSpec(load_experiment(file, []), label, seed, None, out), out / f"{method}-{rounds}"
        try:
            scores = get_or_run(spec, folder, RunCallback())["test_by_client"]["deployed"]
        except UserError as error:
            stopped.append(str(error))
            continue
        accuracies.append(mean(own["accuracy"] for client, own in scores.items() if client != ATTACKER))
        lines = map(json.loads, (find_folder(spec, folder).path / "metrics.jsonl").read_text().splitlines())
        of_attacker = [line for line in lines if line["split"] == "train" and line["client"] == ATTACKER]
        left_out += sum("quarantined" in line for line in of_attacker)
        cut_down += sum("clipped" in line for line in of_attacker)
    average = round(mean(accuracies), 4) if accuracies else None
    return {"accuracy": average, "seeds": accuracies, "left_out": left_out, "cut_down": cut_down, "stopped": stopped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, nargs="+", default=[8])
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--results", type=Path, default=HERE / "results/attacks.json")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "model").exists():
        tiny_model(options.out / "model")
        write_task(options.out / "task.jsonl")
    table: dict[str, Any] = {}
    for rounds in options.rounds:
        for label in options.methods:
            rows = table.setdefault(f"{rounds} rounds", {}).setdefault(label, {})
            for number, name in enumerate(["honest", *ATTACKS]):
                method = label
                if name != "honest":
                    method = f"{label}-attack{number}"
                    register_method(method)(attack(find_method(label), ATTACKS[name]))
                row = rows[name] = run_cell(label, method, rounds, options.seeds, options.out)
                print(f"{rounds:3} {label:14} {name:24} {row['accuracy']}", flush=True)
                figures = {"seeds": options.seeds, "table": table, "environment": describe_environment()}
                options.results.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
