"""Engines over five fresh clients with a tiny float64 backbone, and what two of them must agree on."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.modeling_outputs import SequenceClassifierOutput

from fedpeft.backbones import SequenceClassifier
from fedpeft.backbones.heads import pool
from fedpeft.engines import find_engine
from fedpeft.engines.local import LocalEngine
from fedpeft.engines.templates import TemplateCache
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.randomness import generator
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import find_method
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Encoded, Padding
from fedpeft.tasks.kinds.common.token_losses import compute_token_losses

EXAMPLES = (13, 8, 3, 9, 4)  # with batches of 4: 4, 2, 1, 3 and 1 steps an epoch, some of them short
SETTINGS = TrainingConfig(batch_size=4, local_epochs=2, weight_decay=0.01, lr_decay=0.5)
PAD = 1
SIZES = {"vocab_size": 60, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}


class InFloat64(SequenceClassifier):
    """Head and all: AdamW divides by the size of a gradient, so that in float32 what is nearly zero moves at random."""

    def forward(self, input_ids, attention_mask, **kwargs):
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(pool(hidden, attention_mask, "mean")))


def classifier(outputs=3, kind=InFloat64):
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=2, intermediate_size=48,
                                  num_attention_heads=4, max_position_embeddings=32, initializer_range=0.1,
                                  **SIZES)  # fmt: skip
    model = kind(AutoModel.from_config(config).eval(), num_labels=outputs, pooling="mean").eval()
    return model.double() if kind is InFloat64 else model


def decoder():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", hidden_size=32, num_hidden_layers=2, intermediate_size=48,
                                  num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1,
                                  **SIZES)  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval().double()


class Answers:
    """A decoder's task, as far as training goes."""

    metric = "loss"

    def losses(self, model, batch):
        return compute_token_losses(model, batch)


def rows(client, count, target):
    draw = generator(client, "rows")

    def ids(low, high):
        return tuple(
            torch.randint(3, 60, (int(torch.randint(low, high, (), generator=draw)),), generator=draw).tolist()
        )

    return [Encoded(ids(2, 12), i % 3, ids(1, 5) if target else ()) for i in range(count)]


def built(method, backbone, task, allotments, target=False, max_clients=None, settings=SETTINGS):
    """A local engine, or a batched one when `at_once` is given, over fresh clients; and the server's start."""
    models = TemplateCache(backbone, 0)
    padding = Padding(PAD, "left" if target else "right")
    specs = [ClientSpec(f"c{i}", n, a) for i, (n, a) in enumerate(zip(EXAMPLES, allotments, strict=True))]
    templates = {spec.id: models.get_template(method.adapter(backbone, spec)) for spec in specs}
    clients = []
    for i, spec in enumerate(specs):
        splits = {"train": rows(i, spec.examples, target), "validation": rows(100 + i, 5, target)}
        clients.append(Client(spec, splits, task, padding, templates[spec.id].read(), 0))
    arguments = (method, clients, templates, settings, 0, 1)
    kind = LocalEngine if max_clients is None else find_engine("batched")
    engine = kind(*arguments)
    if max_clients is not None:
        engine.max_clients = max_clients
    dimensions = {name: template.get_dimensions() for name, template in templates.items()}
    return engine, method.start(FederationInfo(tuple(specs), {c.spec.id: c.initial for c in clients}, dimensions), 0)


def rounds(method, engine, state, count=2):
    """The replies of each round, by client, and what the clients keep at the end."""
    found = []
    for round_ in range(1, count + 1):
        specs = [client.spec for client in engine.by_id.values()]
        outcomes = list(engine.train([Message(s.id, round_, method.send(state, s)) for s in specs]))
        assert [o.failure for o in outcomes] == [None] * len(specs)
        assert all(outcome.seconds > 0 for outcome in outcomes)
        replies = sorted((outcome.reply for outcome in outcomes), key=lambda reply: reply.client)
        found.append({reply.client: reply for reply in replies})
        state = method.aggregate(state, replies)
    engine.close()
    return found, engine.save(0)


def largest_difference(got, wanted):
    """The largest relative difference of replies, their scalars and the clients' states, tensor by tensor."""
    worst = 0.0
    for one, other in zip(got[0], wanted[0], strict=True):
        assert one.keys() == other.keys()
        for client in one:
            assert one[client].scalars == pytest.approx(other[client].scalars, rel=1e-5)
            worst = max(worst, of_tensors(one[client].tensors, other[client].tensors))
    for client, state in got[1].items():
        worst = max(worst, of_tensors(state.trained, wanted[1][client].trained))
        worst = max(worst, of_tensors(state.kept, wanted[1][client].kept))
    return worst


def of_tensors(one, other):
    assert one.keys() == other.keys()
    pairs = [(t.double(), other[name].double()) for name, t in one.items()]
    return max((float((a - b).norm() / b.norm().clamp(min=1e-3)) for a, b in pairs), default=0.0)


def made(name, **options):
    kind = find_method(name)
    return kind(kind.Options(lr=5e-3, **options))


LIKE = [ClientResources()] * 5
UNLIKE = [
    ClientResources(rank=r, layers=layers) for r, layers in ((2, None), (4, None), (1, (1,)), (4, (0,)), (2, None))
]
RANKS = [ClientResources(rank=r) for r in (2, 4, 1, 4, 2)]
LORA = {"adapter": {"r": 4, "alpha": 8}}
REFT = {"adapter": {"kind": "loreft", "r": 2, "positions": "f1+l2"}}
