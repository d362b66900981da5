"""FedReFT taken apart: which of retraction, All-But-Me, the median and alignment matters, and under attack.

    python benchmarks/ablation.py --data PATH/TO/glue/sst2 [--seeds 3] [--out runs/ablation]

At 4 and 8 clients, once as they are and once with one client that replies noise of 100 times its tensors' norm (the
screen for outlying norms is off, so that the aggregation rule alone has to stand it). Accuracy is that of the honest
clients. Resumable; `--clients 4` or `8` does one half.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import torch

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.environment import describe_environment
from fedpeft.errors import UserError
from fedpeft.federation.message import Tensors
from fedpeft.methods import find_method, register_method
from fedpeft.runs.grid import get_or_run
from fedpeft.runs.spec import RunSpec

HERE = Path(__file__).parent
ATTACKER, LOUDNESS = "client-0", 100.0


def noisy(kind: type) -> type:
    """The method `kind` with one client whose replies are noise."""

    class Noisy(kind):
        def rejection_reason(self, state, reply) -> None:
            return None  # noise has no orthonormal rows either: let the aggregation rule stand it alone

        def reply(self, model, message, client) -> Tensors:
            honest = super().reply(model, message, client)
            if client.spec.id != ATTACKER:
                return honest
            draw = torch.Generator().manual_seed(0)
            noise = {name: torch.randn(t.shape, generator=draw) for name, t in honest.items()}
            scale = LOUDNESS * norm(honest) / norm(noise)
            return {name: scale * t for name, t in noise.items()}

    return Noisy


def norm(tensors: Tensors) -> float:
    return float(torch.cat([t.flatten() for t in tensors.values()]).norm())


def honest_accuracy(result: dict) -> float:
    """Mean over the honest clients (all but one, with and without the attack: the same clients in both)."""
    scores = result["test_by_client"]["deployed"]
    return mean(s["accuracy"] for client, s in scores.items() if client != ATTACKER)


def cell(experiment, label: str, seeds: int, data: Path, out: Path) -> dict:
    """Accuracy over seeds; a seed whose run had to stop is counted and its reason kept."""
    accuracy, stopped = [], []
    for seed in range(seeds):
        try:
            result = get_or_run(RunSpec(experiment, label, seed, None, data.parent), out, RunCallback())
            accuracy.append(honest_accuracy(result))
        except UserError as error:
            stopped.append(str(error).split(" (")[0])
        print(out.name, label, seed, accuracy[-1:] or stopped[-1:], flush=True)
    spread = stdev(accuracy) if len(accuracy) > 1 else 0.0
    return {"accuracy": accuracy, "mean": mean(accuracy) if accuracy else None, "sd": spread, "stopped": stopped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    wanted = parser.parse_args()
    for name in ("fedavg_loreft", "fedreft"):
        register_method(f"{name}-noise")(noisy(find_method(name)))
    for clients in wanted.clients:
        table = {}
        for attack in ("", "-noise"):
            overrides = [f"task.source={wanted.data.resolve()}", f"partition.clients={clients}", *wanted.overrides]
            experiment = load_experiment(HERE / "experiments/ablation.yaml", overrides)
            for options in experiment.methods.values():
                options["method"] += attack
            for label in experiment.methods:
                folder = wanted.out / f"{clients}-clients{attack}"
                table[f"{label}{attack}"] = cell(experiment, label, wanted.seeds, wanted.data, folder)
        found = {"clients": clients, "seeds": wanted.seeds, "attacker": ATTACKER, "loudness": LOUDNESS, "table": table}
        target = HERE / "results" / f"ablation_{clients}_clients.json"
        target.write_text(json.dumps(found | {"environment": describe_environment()}, indent=1))


if __name__ == "__main__":
    main()
