"""What a round costs beside training: 100 clients, 128 KiB of adapter each, a training step that does nothing.

    python benchmarks/engine_overhead.py [--clients 100] [--repeats 9]

Counted: send, the copy into a worker's slot, the copy out, the reply, the screen and the aggregation, all that a
round does but the step. Prints milliseconds per client, median and spread, and writes the JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig
from tiny import tiny_model

from fedpeft.backbones import load_backbone
from fedpeft.engines.local import LocalEngine
from fedpeft.engines.templates import TemplateCache
from fedpeft.environment import describe_environment
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.fedit import FedIt
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.kinds import make_task


class NoStep(FedIt):
    """FedIT whose local training is nothing: receive, then reply."""

    def adapter(self, model, client):
        # 2 blocks x 2 layers x (A and B) of 32 columns each: r = 128 gives 128 KiB of float32
        return LoraConfig(r=128, target_modules=["query", "value"], modules_to_save=["classifier"])

    def train(self, model, message, client, settings, shuffle):
        self.receive(model, message, client)
        return Reply(message.client, message.round, self.reply(model, message, client), {"examples": 8, "loss": 0.0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbone, _ = load_backbone(str(tiny_model(Path(folder))), num_labels=2, pooling="mean")
    method = NoStep(FedIt.Options())
    specs = [ClientSpec(f"c{i:04d}", 8) for i in range(wanted.clients)]
    template = TemplateCache(backbone, 0).get_template(method.adapter(backbone, specs[0]))
    initial = template.read()
    rows = {"train": [Encoded((2, 3), 0)]}
    task = make_task(TaskConfig(source="rows"), ["0", "1"], None, 64)
    clients = [Client(spec, rows, task, Padding(0, "right"), initial, 0) for spec in specs]
    found = {"clients": wanted.clients, "adapter_kib": sum(t.nbytes for t in initial.values()) / 1024}
    for workers in (1, 2):
        engine = LocalEngine(
            method, clients, dict.fromkeys([s.id for s in specs], template), TrainingConfig(), 0, workers
        )
        state = method.start(FederationInfo(tuple(specs), {s.id: initial for s in specs}), 0)
        federation = Federation(method, engine, state, specs, specs, TrainingConfig(), 0)
        federation.step()  # builds the workers' slots
        per_client = []
        for _ in range(wanted.repeats):
            began = time.perf_counter()
            federation.step()
            per_client.append(1000 * (time.perf_counter() - began) / wanted.clients)
        engine.close()
        found[f"ms_per_client_{workers}_workers"] = {
            "median": round(statistics.median(per_client), 3),
            "min": round(min(per_client), 3),
            "max": round(max(per_client), 3),
        }
    print(json.dumps(found, indent=1))
    target = Path(__file__).with_name("results") / "engine_overhead.json"
    target.write_text(json.dumps(found | {"environment": describe_environment()}, indent=1))


if __name__ == "__main__":
    main()
