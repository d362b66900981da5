"""A tiny classifier and one client's local training of it."""

import torch
from peft import get_peft_model
from transformers import AutoModel

from fedpeft.adapters import AdaptedModel, LoReftConfig, make_lora_config
from fedpeft.backbones import SequenceClassifier
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.training import LocalTrainer
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Encoded, Padding
from helpers.tiny_adapted import tiny_config

PADDING = Padding(1, "right")
EXAMPLES = [Encoded(tuple(range(3, 5 + i)), i % 3) for i in range(8)]


class CrossEntropy:
    """A classification's losses, without a metric."""

    metric = "loss"

    def losses(self, model, batch):
        logits = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")


def build(kind):
    torch.manual_seed(0)
    plain = SequenceClassifier(AutoModel.from_config(tiny_config("bert")).eval(), num_labels=3, pooling="mean")
    plain.backbone.double()
    if kind == "lora":
        config = make_lora_config(plain, r=2, alpha=4)
    else:
        config = LoReftConfig(r=2, positions="all", modules_to_save=["classifier"])
    return AdaptedModel(get_peft_model(plain, config))


def make_trainer(model, training, resources=None, examples=EXAMPLES, round_=1):
    spec = ClientSpec("c", len(examples), resources or ClientResources())
    client = Client(spec, {"train": examples}, CrossEntropy(), PADDING, {}, 0)
    return LocalTrainer(model, client, model.names, 1e-3, training, torch.Generator().manual_seed(0), round_)
