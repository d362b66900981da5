"""The federated work that every contestant does: the same model, rows, batches, steps, start, optimiser and marks."""

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor

from fedpeft.adapters import LoReftConfig, LoReftModel, make_lora_config
from fedpeft.backbones import SequenceClassifier, load_backbone
from fedpeft.engines.templates import use_seed
from fedpeft.federation.randomness import generator
from fedpeft.tasks.encode import Batch, Encoded, Padding, make_batches

FILE = "work.json"


@dataclass(frozen=True)
class Settings:
    """What is done. `steps` are optimiser steps per client and round; a client holds `steps` x `batch` rows."""

    adapter: str  # lora: rank 8 on all linear layers; loreft: rank 4, all positions; both with the head
    layers: tuple[int, ...]  # blocks that are adapted
    model: str
    clients: int
    rounds: int
    steps: int
    batch: int
    length: int  # tokens at most
    lr: float
    seed: int
    workers: int  # threads of fedpeft, actors of Flower


@dataclass(frozen=True)
class Work:
    """The settings, every client's token rows, and the folder that results and marks go to."""

    settings: Settings
    labels: int
    padding: Padding
    rows: dict[str, list[Encoded]]
    folder: Path

    def write(self) -> None:
        """Keeps it where `read` finds it."""
        rows = {name: [[row.input_ids, row.label] for row in of_one] for name, of_one in self.rows.items()}
        fields = {"settings": asdict(self.settings), "labels": self.labels, "padding": asdict(self.padding)}
        (self.folder / FILE).write_text(json.dumps(fields | {"rows": rows}))

    @classmethod
    def read(cls, folder: Path) -> "Work":
        kept = json.loads((folder / FILE).read_text())
        settings = Settings(**kept["settings"] | {"layers": tuple(kept["settings"]["layers"])})
        rows = {name: [Encoded(tuple(ids), label) for ids, label in of_one] for name, of_one in kept["rows"].items()}
        return cls(settings, kept["labels"], Padding(**kept["padding"]), rows, folder)

    def make_batches(self, client: str, round_: int) -> Iterator[Batch]:
        """The batches of one client in one round (from 1): exactly those that fedpeft's own client draws."""
        shuffle = generator(self.settings.seed, "shuffle", round_, client)
        for batch in make_batches(self.rows[client], self.settings.batch, self.padding, shuffle):
            yield {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}

    def backbone(self) -> SequenceClassifier:
        """The frozen model with the head that everyone starts from, in eval mode: no dropout, also in training."""
        began = time.perf_counter()
        with use_seed(self.settings.seed, "head"):
            model, _ = load_backbone(self.settings.model, num_labels=self.labels, pooling="mean")
        self._mark("model_seconds", time.perf_counter() - began)
        return model

    def adapter(self, backbone: SequenceClassifier) -> PeftConfig:
        """What is trained, as PEFT's configuration."""
        layers = list(self.settings.layers)
        if self.settings.adapter == "lora":
            return make_lora_config(backbone, r=8, alpha=16, layers=layers)
        return LoReftConfig(r=4, layers=layers, positions="all", modules_to_save=["classifier"])

    def model(self) -> PeftModel:
        """The adapted model at its start, the same in every process."""
        backbone = self.backbone()
        with use_seed(self.settings.seed, "adapter"):
            return get_peft_model(backbone, self.adapter(backbone)).eval()

    def first_step(self) -> None:
        """Called before every training step; what counts is the first call of all processes."""
        self._mark("first_step", time.time())

    def _mark(self, what: str, value: float) -> None:
        """Kept once for each process."""
        file = self.folder / f"{what}-{os.getpid()}"
        if file.name not in _marked:
            _marked.add(file.name)
            file.write_text(repr(value))


_marked: set[str] = set()  # of this process


def adamw(model: PeftModel, lr: float) -> torch.optim.AdamW:
    """AdamW over what is trained; after each of its steps LoReFT's R is put back on orthonormal rows."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    tuner = model.base_model
    if isinstance(tuner, LoReftModel):
        optimiser.register_step_post_hook(lambda *_: tuner.retract_())
    return optimiser


def train(model: PeftModel, work: Work, client: str, round_: int) -> float:
    """One client's local round on the model as it stands, the usual loop; returns the mean loss."""
    optimiser = adamw(model, work.settings.lr)
    losses: list[Tensor] = []
    for batch in work.make_batches(client, round_):
        work.first_step()
        loss = model(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


class Rounds:
    """Takes the time and the mean loss of every round, where the server is."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self, losses: Collection[float]) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        self.losses.append(sum(losses) / len(losses))


def contest(run: Callable[[Work, Rounds], None], packages: Collection[str] = ()) -> None:
    """The main function of a contestant: `python <contestant>.py FOLDER`. Writes result.json into the folder."""
    folder = Path(sys.argv[1])
    rounds = Rounds()
    run(Work.read(folder), rounds)
    versions = {name: version(name) for name in ("torch", "transformers", "peft", *packages)}
    result = {"round_seconds": rounds.seconds, "losses": rounds.losses, "versions": versions}
    (folder / "result.json").write_text(json.dumps(result))
