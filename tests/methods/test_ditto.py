"""Ditto: the global model is FedIT's, the personal one is held near what was received."""

import pytest
import torch
from helpers.local_clients import make_classifier, make_clients, train_client
from helpers.replies import TensorModel, are_equal, build_method, lora_tensors, make_client

from fedpeft.federation.message import Message
from fedpeft.methods import ditto

OPTIONS = {"lr": 1e-2, "adapter": {"r": 2}}


@pytest.fixture
def penalties(monkeypatch):
    """The penalty functions of the personal trainings, with the model's tensors where they begin."""
    seen, real = [], ditto.train_locally

    def watch(trainer, penalty):
        seen.append((penalty, trainer.model.read(), trainer.model))
        return real(trainer, penalty)

    monkeypatch.setattr(ditto, "train_locally", watch)
    return seen


def test_the_reply_is_fedits_and_the_personal_model_stays_at_the_client():
    method, fedit = build_method("ditto", **OPTIONS), build_method("fedit", **OPTIONS)
    plain = make_classifier()
    clients, state = make_clients(method, plain)
    others, _ = make_clients(fedit, plain)
    for (client, model), (other, other_model) in zip(clients, others, strict=True):
        reply = train_client(method, state, client, model)
        expected = train_client(fedit, state, other, other_model)
        assert are_equal(reply.tensors, expected.tensors) and reply.scalars == expected.scalars
        assert client.local.kept.keys() == reply.tensors.keys()
        assert not are_equal(client.local.kept, reply.tensors)
        assert client.local.trained is client.local.kept  # what it would deploy


@pytest.mark.parametrize("weight", [0.1, 5.0])
def test_the_personal_model_is_held_near_what_was_received_with_weight_lambda(penalties, weight):
    method = build_method("ditto", **OPTIONS, personal_weight=weight)
    clients, state = make_clients(method, make_classifier())
    client, model = clients[0]
    train_client(method, state, client, model)
    personal = client.local.kept
    sent = {name: tensor + 0.1 for name, tensor in state.tensors.items()}
    train_client(method, type(state)(sent), client, model, round_=2)
    (_, first, _), (penalty, start, model) = penalties
    assert are_equal(first, state.tensors)  # the first round begins at what was received
    assert are_equal(start, personal)  # a later one goes on from the personal model, not from the global one
    model.write(start)
    for parameter in model.parameters():
        parameter.grad = None
        parameter.requires_grad_(True)
    penalty().backward()
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, weight * (personal[name] - sent[name]))


def test_a_weight_of_zero_is_no_penalty(penalties):
    method = build_method("ditto", **OPTIONS, personal_weight=0)
    clients, state = make_clients(method, make_classifier())
    train_client(method, state, *clients[0])
    assert penalties[0][0] is None


def test_a_client_deploys_its_personal_model_or_before_it_has_one_what_is_sent():
    method, sent = build_method("ditto"), lora_tensors(1)
    for kept, expected in (({}, sent), (lora_tensors(2), lora_tensors(2))):
        model = TensorModel(lora_tensors(0))
        method.load_personal(model, Message("c0", 1, sent), make_client(trained=lora_tensors(3), kept=kept))
        assert are_equal(model.read(), expected)
    assert method.uses_client_state is False  # what it needs is in `kept`
