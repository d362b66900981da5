"""FedDPA-T: local LoRA beside the global one, then the global one alone; each text weighs both."""

import pytest
import torch
from helpers.local_clients import make_classifier, make_clients, train_client
from helpers.replies import (
    HEAD,
    JOINING,
    TensorModel,
    are_equal,
    build_method,
    expert_tensors,
    is_close,
    largest_difference,
    lora_tensors,
    make_client,
    make_reply,
    start_experts,
)

from fedpeft.adapters import is_head, take_head
from fedpeft.adapters.experts.gate import get_shared_gate
from fedpeft.federation.message import Message
from fedpeft.methods import feddpa_t
from fedpeft.methods.common.expert_tensors import LIMIT, REFERENCE, name_expert, read_expert


def make_initial(seed):
    return expert_tensors(seed, 2, 0) | {LIMIT: torch.tensor([0.5]), REFERENCE: torch.zeros(4)}


def make_replies(clients=4):
    return [make_reply(f"c{i}", lora_tensors(i), i + 1) for i in range(clients)]


def test_the_mean_is_plain_each_client_counts_and_order_does_not():
    method, replies = build_method("feddpa_t"), make_replies()
    state, specs = start_experts(method)
    assert are_equal(method.send(state, specs[0]), read_expert(expert_tensors(99), 1) | take_head(expert_tensors(99)))
    after = method.aggregate(state, replies).tensors
    assert all(is_close(t, sum(r.tensors[n].double() for r in replies) / 4) for n, t in after.items())
    assert largest_difference(after, method.aggregate(state, replies[::-1]).tensors) < 1e-6
    for i in range(4):
        assert largest_difference(after, method.aggregate(state, replies[:i] + replies[i + 1 :]).tensors) > 1e-3
    assert are_equal(method.send(method.aggregate(state, replies), JOINING), after)


def test_a_client_keeps_its_local_lora_its_head_and_its_reference():
    method, message = build_method("feddpa_t", max_weight=0.25), Message("c0", 2, lora_tensors(1))
    sent = name_expert(lora_tensors(1), 1) | {LIMIT: torch.tensor([0.25])}
    for trained in (None, make_initial(2)):
        model = TensorModel(make_initial(3))
        client = make_client(initial=make_initial(0), trained=trained)
        assert method.receive(model, message, client) == {}
        own = trained or make_initial(0) | {HEAD: lora_tensors(1)[HEAD]}  # a newly joined client has no head of its own
        assert are_equal(model.read(), own | sent)
        expected = lora_tensors(1) | take_head(own)
        assert are_equal(method.reply(model, message, client), expected)


@pytest.fixture
def trained(monkeypatch):
    """A client's round, and what each of its two trainings moved: [(weights, names)], reply, client, model, sent."""
    method = build_method("feddpa_t", lr=1e-2, prompts=3, max_weight=0.4, adapter={"r": 3, "alpha": 6})
    clients, state = make_clients(method, make_classifier())
    client, model = clients[0]
    train_client(method, state, client, model)
    phases, own = [], feddpa_t.train_locally

    def train_locally(trainer):
        before = model.read()
        loss = own(trainer)
        after = model.read()
        phases.append((get_shared_gate(model.base).fixed, {n for n in after if not torch.equal(before[n], after[n])}))
        return loss

    monkeypatch.setattr(feddpa_t, "train_locally", train_locally)
    sent = method.send(state, client.spec)
    reply = train_client(method, state, client, model, 2)
    return phases, reply, client, model, sent


def test_the_local_lora_trains_beside_the_global_one_and_then_that_alone(trained):
    phases, reply, client, _, sent = trained
    names, heads = client.initial.keys(), {n for n in client.initial if is_head(n)}
    factors = [{n for n in names if n.endswith((f".A{i}", f".B{i}"))} for i in range(2)]
    assert [weights for weights, _ in phases] == [(0.5, 0.5), (0.0, 1.0)]
    # The global B begins at zero, so that its A has no gradient in the first step of the second training.
    assert phases[0][1] == factors[0] | heads
    assert phases[1][1] == factors[1] | heads
    assert reply.tensors.keys() == sent.keys()
    assert are_equal(read_expert(client.local.trained, 1), {n: t for n, t in reply.tensors.items() if not is_head(n)})
    assert all(not torch.equal(client.local.trained[n], reply.tensors[n]) for n in heads)


def test_the_reference_is_the_mean_of_the_training_prompts_by_the_local_lora(trained):
    _, _, client, model, _ = trained
    reference = client.local.trained[REFERENCE]
    assert client.local.trained[LIMIT].item() == pytest.approx(0.4)
    model.restore(client.local.trained)
    indices = torch.randperm(8, generator=client.generator("prompts", 2))[:3].tolist()
    vectors = []
    for i in indices:
        ids = torch.tensor([client.splits["train"][i].input_ids])
        states = []
        handle = model.base.backbone.encoder.layer[-1].register_forward_hook(
            lambda _, __, out: states.append(out if torch.is_tensor(out) else out[0])  # noqa: B023
        )
        with torch.no_grad(), get_shared_gate(model.base).use_weights((1.0, 0.0)):
            model.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        handle.remove()
        vectors.append(torch.nn.functional.normalize(states[0].mean(1)[0], dim=0))
    torch.testing.assert_close(reference, torch.stack(vectors).mean(0), rtol=1e-4, atol=1e-5)


def test_what_a_client_deploys_depends_on_the_text(trained):
    _, _, client, model, sent = trained
    method = build_method("feddpa_t", max_weight=0.4, adapter={"r": 3, "alpha": 6})
    method.load_personal(model, Message(client.spec.id, 3, sent), client)
    gate, ids = get_shared_gate(model.base), torch.randint(3, 60, (6, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), gate.collect_vectors() as vectors:
        logits = model.model(input_ids=ids).logits
    weights = 0.4 * (vectors[0] @ client.local.trained[REFERENCE]).clamp(min=0)
    assert float(weights.std()) > 0 and float(weights.max()) <= 0.4
    for i, weight in enumerate(weights.tolist()):
        with torch.no_grad(), gate.use_weights((weight, 1 - weight)):
            torch.testing.assert_close(
                model.model(input_ids=ids[i : i + 1]).logits, logits[i : i + 1], rtol=1e-4, atol=1e-4
            )
