"""Exact methods from local training to logits: what a client deploys is the base weights plus the dense sum.

On BERT and on GPT-2, whose linear layers are stored transposed; modules that are not square; unlike ranks.
"""

import copy

import pytest
import torch
from helpers.local_clients import EXAMPLES, make_classifier, make_clients, train_client
from helpers.replies import build_method, truncate_dense
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters import take_head
from fedpeft.federation.message import Message

TOTAL = sum(EXAMPLES)


def compute_logits(plain, deltas, head):
    """Those of the plain model in float64 with dense updates added to its weights."""
    dense = copy.deepcopy(plain)
    dense.backbone.double()
    for module, delta in deltas.items():
        layer = dense.get_submodule(module.removeprefix("base_model.model."))
        with torch.no_grad():
            layer.weight += delta.T if isinstance(layer, Conv1D) else delta
    dense.classifier.load_state_dict({name.rsplit(".", 1)[-1]: t for name, t in head.items()})
    return dense(**make_batch()).logits.detach()


def make_batch():
    ids = torch.randint(3, 60, (5, 9), generator=torch.Generator().manual_seed(9))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def mean_by_examples(parts):
    return {name: sum(n / TOTAL * part[name] for n, part in zip(EXAMPLES, parts, strict=True)) for name in parts[0]}


def get_products(model):
    """The whole update of every module, dense in float64."""
    return {module: b.double() @ a.double() for module, (a, b) in model.effective_factors.items()}


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("name", "options", "ranks"),
    [
        ("flora", {"adapter": {"r": 3, "alpha": 6}}, (3, 2, 1)),
        ("fedex_lora", {"adapter": {"r": 3, "alpha": 6}}, (3, 3, 3)),
        ("ffa_lora", {"adapter": {"r": 3, "alpha": 6}}, (3, 3, 3)),
        ("fed_sb", {"adapter": {"r": 3, "alpha": 6}}, (3, 3, 3)),
        ("flexlora", {"adapter": {"r": 3, "alpha": 6}}, (3, 3, 3)),
        # At the width of the model a client's rank holds the whole sum: nothing is cut off.
        ("fedhft", {"adapter": {"r": 32, "alpha": 64}, "server_rank": None, "warmup": 9}, (32, 32, 32)),
    ],
)
def test_every_client_deploys_the_mean_of_all_updates(name, options, ranks, architecture):
    method, plain = build_method(name, lr=3e-2, **options), make_classifier(architecture)
    clients, state = make_clients(method, plain, ranks)
    frozen = {n: p.clone() for n, p in plain.named_parameters()}
    for round_ in (1, 2):
        replies, products = [], []
        for client, model in clients:
            replies.append(train_client(method, state, client, model, round_))
            products.append(get_products(model))
        state = method.aggregate(state, replies)
        exact = mean_by_examples(products)
        head = mean_by_examples([{n: t.double() for n, t in take_head(reply.tensors).items()} for reply in replies])
        for client, model in clients:
            method.load_personal(model, Message(client.spec.id, round_ + 1, method.send(state, client.spec)), client)
            for module, product in get_products(model).items():
                expected = truncate_dense(exact[module], 3) if name == "flexlora" else exact[module]
                assert torch.allclose(product, expected, atol=2e-5), module
            if name != "flexlora":
                expected = compute_logits(plain, exact, {n: t.float() for n, t in head.items()})
                assert torch.allclose(model.model(**make_batch()).logits, expected.float(), atol=1e-3)
    assert all(torch.equal(p, frozen[n]) for n, p in plain.named_parameters())  # the shared backbone is never written
