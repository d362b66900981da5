"""Exact methods from local training to logits: what a client deploys is the base weights plus the dense sum.

On BERT and on GPT-2, whose linear layers are stored transposed; modules that are not square; unlike ranks.
"""

import copy

import pytest
import torch
from helpers.tasks import make_classification
from transformers import AutoConfig, AutoModel
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters import is_head
from fedpeft.backbones import SequenceClassifier
from fedpeft.engines.templates import TemplateCache
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.randomness import generator
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import find_method
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Encoded, Padding

EXAMPLES, RANKS = (8, 4, 4), (3, 2, 1)


def classifier(architecture):
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


def federation(method, plain, ranks):
    """Clients with random rows, and the server's start."""
    models, clients = TemplateCache(plain, 0), []
    for i, (n, rank) in enumerate(zip(EXAMPLES, ranks, strict=True)):
        spec = ClientSpec(f"c{i}", n, ClientResources(rank=rank))
        slot = models.get_template(method.adapter(plain, spec))
        draw = generator(i, "rows")
        rows = [Encoded(tuple(torch.randint(3, 60, (7,), generator=draw).tolist()), j % 3) for j in range(n)]
        clients.append(
            (Client(spec, {"train": rows}, make_classification(), Padding(1, "right"), slot.read(), 0), slot.clone())
        )
    specs = tuple(client.spec for client, _ in clients)
    initial = {client.spec.id: client.initial for client, _ in clients}
    dimensions = {client.spec.id: slot.get_dimensions() for client, slot in clients}
    return clients, method.start(FederationInfo(specs, initial, dimensions), 0)


def logits_with(plain, deltas, head):
    """The plain model in float64 with dense updates added to its weights."""
    dense = copy.deepcopy(plain)
    dense.backbone.double()
    for module, delta in deltas.items():
        layer = dense.get_submodule(module.removeprefix("base_model.model."))
        with torch.no_grad():
            layer.weight += delta.T if isinstance(layer, Conv1D) else delta
    dense.classifier.load_state_dict({name.rsplit(".", 1)[-1]: t for name, t in head.items()})
    return dense(**batch()).logits.detach()


def batch():
    ids = torch.randint(3, 60, (5, 9), generator=torch.Generator().manual_seed(9))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize("name", ["flora", "fedex_lora", "ffa_lora", "flexlora", "fedhft"])
def test_every_client_deploys_the_mean_of_all_updates(name, architecture):
    ranks = RANKS if name == "flora" else (3, 3, 3)
    options = {"lr": 3e-2, "adapter": {"r": 3, "alpha": 6}}
    options |= {"server_rank": None, "warmup": 9} if name == "fedhft" else {}
    if name == "fedhft":  # at the width of the model a client's rank holds the whole sum: nothing is cut off
        options["adapter"] = {"r": 32, "alpha": 64}
        ranks = (32, 32, 32)
    kind = find_method(name)
    method, plain = kind(kind.Options(**options)), classifier(architecture)
    clients, state = federation(method, plain, ranks)
    frozen = {n: p.clone() for n, p in plain.named_parameters()}
    exact: dict[str, torch.Tensor] = {}
    for round_ in (1, 2):
        replies, updates = [], []
        for client, slot in clients:
            message = Message(client.spec.id, round_, method.send(state, client.spec))
            replies.append(
                method.train(slot, message, client, TrainingConfig(batch_size=4), generator(round_, client.spec.id))
            )
            updates.append({m: b.double() @ a.double() for m, (a, b) in slot.effective_factors.items()})
        state = method.aggregate(state, replies)
        exact = {m: sum(n / 16 * u[m] for n, u in zip(EXAMPLES, updates, strict=True)) for m in updates[0]}
        heads = [{n: t.double() for n, t in r.tensors.items() if is_head(n)} for r in replies]
        head = {n: sum(k / 16 * h[n] for k, h in zip(EXAMPLES, heads, strict=True)).float() for n in heads[0]}
        for client, slot in clients:
            method.load_personal(slot, Message(client.spec.id, round_ + 1, method.send(state, client.spec)), client)
            for module, (a, b) in slot.effective_factors.items():
                wanted = nearest(exact[module], 3) if name == "flexlora" else exact[module]
                assert torch.allclose(b.double() @ a.double(), wanted, atol=2e-5), module
            if name != "flexlora":
                wanted = logits_with(plain, exact, head)
                assert torch.allclose(slot.model(**batch()).logits, wanted.float(), atol=1e-3)
    assert all(torch.equal(p, frozen[n]) for n, p in plain.named_parameters())  # the shared backbone is never written


def nearest(matrix, rank):
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]
