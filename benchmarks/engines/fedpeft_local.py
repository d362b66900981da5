"""fedpeft's local engine: worker threads that share one frozen backbone."""

from typing import Any

import torch
from torch import Tensor
from work import Rounds, Work, contest

from fedpeft.adapters.task_model import TaskModel
from fedpeft.engines.local import LocalEngine
from fedpeft.engines.templates import TemplateCache
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.method import FederationInfo, Method
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import find_method
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Batch
from fedpeft.tasks.kinds.classification import Classification


class Marked(Classification):
    """Tells when the first step begins."""

    def __init__(self, work: Work) -> None:
        super().__init__(TaskConfig(source="rows"), [str(i) for i in range(work.labels)], None, 64)
        self.work = work

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        self.work.first_step()
        return super().losses(model, batch)


def method(work: Work) -> Method[Any]:
    """FedAvg over the adapter, as plain as the other contestants': the mean of the R's is not put back in order."""
    name, plain = ("fedit", {}) if work.settings.adapter == "lora" else ("fedavg_loreft", {"retract": False})
    kind = find_method(name)
    adapter = {"layers": list(work.settings.layers), "kind": work.settings.adapter}
    return kind(kind.Options.model_validate({"lr": work.settings.lr, "adapter": adapter, **plain}))


class Parts:
    """What any engine of fedpeft is made of, and the federation around one."""

    def __init__(self, work: Work) -> None:
        torch.set_num_threads(1)  # workers are the parallelism
        seed = work.settings.seed
        self.method, self.seed, self.workers = method(work), seed, work.settings.workers
        self.settings = TrainingConfig(rounds=work.settings.rounds, batch_size=work.settings.batch)
        self.specs = [ClientSpec(name, len(rows)) for name, rows in work.rows.items()]
        backbone = work.backbone()
        template = TemplateCache(backbone, seed).get_template(self.method.adapter(backbone, self.specs[0]))
        self.initial = template.read()
        self.templates = {spec.id: template for spec in self.specs}
        task = Marked(work)
        self.clients = [
            Client(spec, {"train": work.rows[spec.id]}, task, work.padding, self.initial, seed) for spec in self.specs
        ]

    def compete(self, engine: LocalEngine, rounds: Rounds) -> None:
        info = FederationInfo(tuple(self.specs), {spec.id: self.initial for spec in self.specs})
        state = self.method.start(info, self.seed)
        federation = Federation(self.method, engine, state, self.specs, self.specs, self.settings, self.seed)
        for _ in range(self.settings.rounds):
            rounds.begin()
            record = federation.step()
            rounds.end([float(scalars["loss"]) for scalars in record.scalars.values()])
        engine.close()


def run(work: Work, rounds: Rounds) -> None:
    parts = Parts(work)
    engine = LocalEngine(parts.method, parts.clients, parts.templates, parts.settings, parts.seed, parts.workers)
    parts.compete(engine, rounds)


if __name__ == "__main__":
    contest(run)
