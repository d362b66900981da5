"""fedpeft's rounds without their training: `python noop_fedpeft.py '{"clients": 1000, ...}'` prints seconds, memory."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import nn

from fedpeft.adapters import AdaptedModel
from fedpeft.backbones import load_backbone
from fedpeft.engines.local import LocalEngine
from fedpeft.engines.templates import TemplateCache
from fedpeft.environment import read_resident_mib
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.fedit import FedIt
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.kinds import make_task

sys.path.insert(0, str(Path(__file__).parent.parent))
from tiny import tiny_model

EXAMPLES = 8


class NoStep(FedIt):
    """FedIT whose local training is nothing; what else a client's round does is left."""

    def adapter(self, model: nn.Module, client: ClientSpec) -> PeftConfig:
        # 2 blocks x 2 layers x (A and B) of 32 columns each: r = 128 gives 128 KiB of float32
        return LoraConfig(r=128, target_modules=["query", "value"], modules_to_save=["classifier"])

    def train(
        self, model: AdaptedModel, message: Message, client: Client, settings: TrainingConfig, shuffle: torch.Generator
    ) -> Reply:
        self.receive(model, message, client)
        client.local.trained = model.snapshot()
        scalars = {"examples": EXAMPLES, "loss": 0.0}
        return Reply(message.client, message.round, self.reply(model, message, client), scalars)


def federation(clients: int, participation: float, workers: int, keeps: bool) -> tuple[Federation, LocalEngine]:
    with tempfile.TemporaryDirectory() as folder:
        backbone, _ = load_backbone(str(tiny_model(Path(folder))), num_labels=2, pooling="mean")
    method = NoStep(FedIt.Options())
    specs = [ClientSpec(f"c{i:05d}", EXAMPLES) for i in range(clients)]
    template = TemplateCache(backbone, 0).get_template(method.adapter(backbone, specs[0]))
    task = make_task(TaskConfig(source="rows"), ["0", "1"], None, 64)
    initial, rows = template.read(), {"train": [Encoded((2, 3), 0)]}
    settings = TrainingConfig(participation=participation, before_aggregation=keeps)
    everyone = [Client(spec, rows, task, Padding(0, "right"), initial, 0) for spec in specs]
    engine = LocalEngine(method, everyone, dict.fromkeys([s.id for s in specs], template), settings, 0, workers)
    state = method.start(FederationInfo(tuple(specs), {spec.id: initial for spec in specs}), 0)
    return Federation(method, engine, state, specs, specs, settings, 0), engine


def main(clients: int, rounds: int, participation: float, workers: int, keeps: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    running, engine = federation(clients, participation, workers, keeps)
    running.step()  # makes the workers' slots
    seconds, memory = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        running.step()
        seconds.append(time.perf_counter() - began)
        memory.append(read_resident_mib())
    engine.close()
    return {"round_seconds": seconds, "memory_mib": memory}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
