"""Clients with a tiny real backbone and random examples, for tests of a method's local training."""

import torch
from transformers import AutoConfig, AutoModel

from fedpeft.backbones import SequenceClassifier
from fedpeft.engines.templates import TemplateCache
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.randomness import generator
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Encoded, Padding

EXAMPLES = (8, 4, 4)


class CrossEntropy:
    """A classification's losses and their mean."""

    metric = "loss"

    def losses(self, model, batch):
        logits = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")


def make_classifier(architecture="bert"):
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if architecture == "gpt2":
        config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=32, **sizes)
    else:
        config = AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=2, intermediate_size=48,
                                      num_attention_heads=4, max_position_embeddings=32, **sizes)  # fmt: skip
    backbone = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    return SequenceClassifier(backbone, num_labels=3, pooling="mean").eval()


def make_clients(method, plain, ranks=(None, None, None), densities=(1.0, 1.0, 1.0)):
    """Clients, each with its model, and the server's first state."""
    templates, clients = TemplateCache(plain, 0), []
    for i, (n, rank, density) in enumerate(zip(EXAMPLES, ranks, densities, strict=True)):
        spec = ClientSpec(f"c{i}", n, ClientResources(rank=rank, density=density))
        template = templates.get_template(method.adapter(plain, spec))
        draw = generator(i, "examples")
        texts = [tuple(torch.randint(3, 60, (7,), generator=draw).tolist()) for _ in range(n)]
        examples = [Encoded(ids, j % 3) for j, ids in enumerate(texts)]
        client = Client(spec, {"train": examples}, CrossEntropy(), Padding(1, "right"), template.read(), 0)
        clients.append((client, template.clone()))
    specs = tuple(client.spec for client, _ in clients)
    initial = {client.spec.id: client.initial for client, _ in clients}
    dimensions = {client.spec.id: model.get_dimensions() for client, model in clients}
    return clients, method.start(FederationInfo(specs, initial, dimensions), 0)


def train_client(method, state, client, model, round_=1, **training):
    """The client's reply to what the server sends in this round."""
    message = Message(client.spec.id, round_, method.send(state, client.spec))
    shuffle = generator(round_, client.spec.id)
    return method.train(model, message, client, TrainingConfig(**{"batch_size": 4, **training}), shuffle)
