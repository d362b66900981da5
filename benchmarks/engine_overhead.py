"""What a round costs beside training: 100 clients, 128 KiB of adapter each, a training step that does nothing.

    python benchmarks/engine_overhead.py [--clients 100] [--repeats 9]

Counted: send, the copy into a worker's model, the copy out, the reply, the screen and the aggregation, all that a
round does but the step; with one worker, with two, and with two under a round policy that asks, keeps and excludes
clients. Rounds of the three take turns. Prints milliseconds per client, median and spread, and writes the JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tiny import tiny_model

from fedpeft.backbones import load_backbone
from fedpeft.engines.local import LocalEngine
from fedpeft.engines.templates import TemplateCache
from fedpeft.environment import describe_environment
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.fedit import FedIt
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.kinds import make_task

POLICY: dict[str, Any] = {
    "deadline_seconds": 600, "round_deadline_seconds": 6000, "retries": 2, "over_selection": 0.1, "exclude_after": 2,
}  # fmt: skip


class NoStep(FedIt):
    """FedIT whose local training is nothing: receive, then reply."""

    def adapter(self, model, client):
        # 2 blocks x 2 layers x (A and B) of 32 columns each: r = 128 gives 128 KiB of float32
        return LoraConfig(r=128, target_modules=["query", "value"], modules_to_save=["classifier"])

    def train(self, model, message, client, settings, shuffle):
        return self.finish(model, message, client, 0.0, self.receive(model, message, client))


CASES = {"1_workers": (1, {}), "2_workers": (2, {}), "2_workers_with_policy": (2, POLICY)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "engine_overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbone, _ = load_backbone(str(tiny_model(Path(folder))), num_labels=2, pooling="mean")
    method = NoStep(FedIt.Options())
    specs = [ClientSpec(f"c{i:04d}", 8) for i in range(options.clients)]
    template = TemplateCache(backbone, 0).get_template(method.adapter(backbone, specs[0]))
    initial = template.read()
    rows = {"train": [Encoded((2, 3), 0)]}
    task = make_task(TaskConfig(source="rows"), ["0", "1"], None, 64)
    clients = [Client(spec, rows, task, Padding(0, "right"), initial, 0) for spec in specs]
    figures: dict[str, Any] = {
        "clients": options.clients,
        "adapter_kib": sum(t.nbytes for t in initial.values()) / 1024,
    }
    federations = {}
    for name, (workers, policy) in CASES.items():
        training = TrainingConfig(**policy)
        engine = LocalEngine(method, clients, dict.fromkeys([s.id for s in specs], template), training, 0, workers)
        state = method.start(FederationInfo(tuple(specs), {s.id: initial for s in specs}), 0)
        federations[name] = Federation(method, engine, state, specs, specs, training, 0)
        federations[name].step()  # builds the workers' models
    milliseconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.repeats):
        for name, federation in federations.items():
            began = time.perf_counter()
            record = federation.step()
            milliseconds[name].append(1000 * (time.perf_counter() - began) / options.clients)
            assert not record.quarantined
    for name, values in milliseconds.items():
        federations[name].engine.close()
        figures[f"ms_per_client_{name}"] = {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
    print(json.dumps(figures, indent=1))
    options.out.write_text(json.dumps(figures | {"environment": describe_environment()}, indent=1))


if __name__ == "__main__":
    main()
