"""IFCA: every client trains the global model that fits it best, the server averages by choice."""

import pytest
import torch
from helpers.replies import (
    HEAD,
    TensorModel,
    are_equal,
    build_method,
    is_close,
    lora_tensors,
    make_client,
    make_lora_replies,
    mean_tensor,
    start_lora,
)

from fedpeft.federation.message import Message
from fedpeft.federation.method import get_layout
from fedpeft.methods.ifca import resample


def choose(replies, clusters):
    for reply, cluster in zip(replies, clusters, strict=True):
        reply.scalars["cluster"] = cluster
    return replies


def test_the_server_averages_within_the_cluster_chosen():
    method = build_method("ifca", clusters=2)
    state, _ = start_lora(method)
    replies = choose(make_lora_replies(), [0, 1, 0, 1])
    after = method.aggregate(state, replies)
    for j in (0, 1):
        assert all(is_close(tensor, mean_tensor(replies[j::2], name)) for name, tensor in after.models[j].items())
    nobody = method.aggregate(state, choose(make_lora_replies(), [0] * 4))
    assert nobody.models[1] is state.models[1]


def test_with_one_cluster_it_is_fedit():
    sent = []
    for name, options in (("ifca", {"clusters": 1}), ("fedit", {})):
        method = build_method(name, **options)
        state, specs = start_lora(method)
        sent.append(method.send(method.aggregate(state, choose(make_lora_replies(), [0] * 4)), specs[0]))
    assert are_equal(sent[0], {f"0/{name}": tensor for name, tensor in sent[1].items()})


@pytest.mark.parametrize("best", [0, 1, 2])
def test_a_client_takes_the_model_of_least_training_loss(best):
    method = build_method("ifca", clusters=3)
    state, specs = start_lora(method)
    message, model = Message("c0", 1, method.send(state, specs[0])), TensorModel(lora_tensors(5))

    def score(scored, split):
        assert split == "train"
        return {"loss": 1.0 - are_equal(scored.read(), state.models[best])}

    assert method.receive(model, message, make_client(scores=score)) == {"cluster": best}
    assert are_equal(model.read(), state.models[best])
    reply = choose(make_lora_replies()[:1], [best])[0]
    assert method.update_baseline(state, message, reply) is state.models[best]
    assert method.reply_layout(state, message) == get_layout(lora_tensors(0))


def test_of_equal_models_it_takes_the_first_and_of_one_it_asks_nothing():
    for clusters, score in ((3, lambda model, split: {"loss": 0.0}), (1, None)):
        method = build_method("ifca", clusters=clusters)
        state, specs = start_lora(method)
        message = Message("c0", 1, method.send(state, specs[0]))
        assert method.receive(TensorModel(lora_tensors(5)), message, make_client(scores=score)) == {"cluster": 0}


@pytest.mark.parametrize(("cluster", "is_refused"), [(0, False), (1, False), (2, True), (-1, True), ("0", True)])
def test_a_reply_of_a_cluster_that_does_not_exist_is_refused(cluster, is_refused):
    method = build_method("ifca", clusters=2)
    state, _ = start_lora(method)
    reason = method.rejection_reason(state, choose(make_lora_replies()[:1], [cluster])[0])
    assert reason == (f"its cluster must be one of 0 to 1, received {cluster!r}" if is_refused else None)
    unsaid = make_lora_replies()[0]
    assert method.rejection_reason(state, unsaid) == "its cluster must be one of 0 to 1, received None"


def test_models_start_apart_with_the_same_means_and_spreads():
    method = build_method("ifca", clusters=3)
    state, _ = start_lora(method)
    assert len(state.models) == 3 and are_equal(state.models[0], lora_tensors(99))
    assert not any(torch.equal(state.models[1][name], state.models[2][name]) for name in state.models[1])
    large = {HEAD: 3 + 2 * torch.randn(400, 100, generator=torch.Generator().manual_seed(0)), "b": torch.ones(5)}
    drawn = resample(large, torch.Generator().manual_seed(1))
    assert float(drawn[HEAD].mean()) == pytest.approx(3, abs=0.05)
    assert float(drawn[HEAD].std()) == pytest.approx(2, rel=0.02)
    assert torch.equal(drawn["b"], large["b"])  # what is constant stays
    assert resample({"c": torch.randn(9).bfloat16()}, torch.Generator())["c"].dtype == torch.bfloat16
    assert method.uses_client_state is False
