"""Clients trained in one pass, against the local engine: the same batches, steps, replies and states."""

import logging
import threading

import pytest
import torch
from helpers.engines import (
    LIKE,
    LORA,
    PAD,
    RANKS,
    REFT,
    UNLIKE,
    Answers,
    built,
    classifier,
    decoder,
    largest_difference,
    made,
    of_tensors,
    rounds,
    rows,
)
from helpers.tasks import make_classification

from fedpeft.backbones import SequenceClassifier
from fedpeft.engines.batched import BatchedEngine, concat_batches
from fedpeft.federation.message import Message
from fedpeft.federation.method import Method
from fedpeft.federation.training import LocalTrainer
from fedpeft.methods import find_method, list_built_in
from fedpeft.resources import ClientResources
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import Encoded, Padding, collate
from fedpeft.tasks.kinds.classification import Classification
from fedpeft.tasks.kinds.regression import Regression


@pytest.fixture
def passes(monkeypatch):
    """Who trained alone, and how many clients each pass of the others had."""
    alone, together = [], []
    one, many = BatchedEngine._train_one, BatchedEngine._train_together

    def counted_one(self, message):
        alone.append(message.client)
        return one(self, message)

    def counted_many(self, group):
        together.append(len(group))
        return many(self, group)

    monkeypatch.setattr(BatchedEngine, "_train_one", counted_one)
    monkeypatch.setattr(BatchedEngine, "_train_together", counted_many)
    return alone, together


@pytest.mark.parametrize(
    ("name", "options", "resources"),
    [
        ("fedit", LORA, LIKE),
        ("local", LORA, UNLIKE),
        ("local", REFT, [ClientResources(layers=layers) for layers in (None, (0,), (1,), None, (0, 1))]),
        ("fedreft", {"mixing": "validation"} | REFT, LIKE),
        ("ffa_lora", LORA, LIKE),
        ("flora", LORA, RANKS),
        ("fedex_lora", LORA, LIKE),
        ("ifca", LORA, LIKE),
    ],
)
def test_two_rounds_are_the_local_engines(name, options, resources, passes):
    method, backbone, task = made(name, **options), classifier(), make_classification()
    wanted = rounds(method, *built(method, backbone, task, resources))
    got = rounds(method, *built(method, backbone, task, resources, max_clients=3))
    assert passes == ([], [3, 2, 3, 2])
    assert largest_difference(got, wanted) < 1e-10


@pytest.mark.parametrize(
    ("name", "options"), [("fedit", LORA), ("fedavg_loreft", {"adapter": {"r": 2, "positions": "f2+l3"}})]
)
def test_decoders_learn_the_same(name, options, passes):
    method, backbone, task = made(name, **options), decoder(), Answers()
    wanted = rounds(method, *built(method, backbone, task, LIKE, target=True))
    got = rounds(method, *built(method, backbone, task, LIKE, target=True, max_clients=5))
    assert passes == ([], [5, 5])
    assert largest_difference(got, wanted) < 1e-10


def test_regression_learns_the_same(passes):
    method, backbone = made("fedit", **LORA), classifier(outputs=1)
    task = Regression(TaskConfig(source="rows.jsonl", kind="regression"), ["regression"], None, 64)
    wanted = rounds(method, *built(method, backbone, task, LIKE))
    assert largest_difference(rounds(method, *built(method, backbone, task, LIKE, max_clients=5)), wanted) < 1e-10


@pytest.mark.parametrize(("name", "options"), [("fedit", LORA), ("fedreft", REFT)])
def test_first_gradients_and_losses_in_float32(name, options, monkeypatch):
    """Not parameters: where a gradient is nearly zero, Adam's step is decided by rounding."""
    step, gradients = LocalTrainer.step, {}

    def recorded_step(self, batch, loss):
        flat = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        gradients.setdefault(self.client.spec.id, torch.cat(flat).double())
        step(self, batch, loss)

    monkeypatch.setattr(LocalTrainer, "step", recorded_step)
    method, backbone, task = made(name, **options), classifier(kind=SequenceClassifier), make_classification()
    seen = []
    for max_clients in (None, 5):
        engine, state = built(method, backbone, task, LIKE, max_clients=max_clients)
        replies = rounds(method, engine, state, count=1)[0][0]
        seen.append((dict(gradients), {client: reply.scalars["loss"] for client, reply in replies.items()}))
        gradients.clear()
    (expected, expected_losses), (received, losses) = seen
    assert losses == pytest.approx(expected_losses, rel=1e-3)
    for client in expected:
        assert float((received[client] - expected[client]).norm() / expected[client].norm()) < 1e-4


@pytest.mark.parametrize("name", ["ditto", "fedhft", "hetlora", "fedit"])
def test_who_trains_alone_is_the_local_engines_bit_for_bit(name, passes):
    options = {"proximal": 0.1} if name == "fedit" else {"gamma": 0.5} if name == "hetlora" else {}
    method, backbone, task = made(name, **LORA, **options), classifier(), make_classification()
    wanted = rounds(method, *built(method, backbone, task, LIKE), count=1)
    got = rounds(method, *built(method, backbone, task, LIKE, max_clients=5), count=1)
    assert sorted(passes[0]) == [f"c{i}" for i in range(5)]
    assert largest_difference(got, wanted) == 0.0


def test_clients_that_must_spare_memory_train_alone_beside_the_others(passes, caplog):
    resources = [
        ClientResources(micro_batch=2),
        ClientResources(checkpointing=True),
        ClientResources(),
        ClientResources(),
        ClientResources(),
    ]
    method, backbone, task = made("fedit", **LORA), classifier(), make_classification()
    wanted = rounds(method, *built(method, backbone, task, resources), count=1)
    with caplog.at_level(logging.INFO):
        got = rounds(method, *built(method, backbone, task, resources, max_clients=5), count=1)
    assert passes == (["c0", "c1"], [3])
    assert largest_difference(got, wanted) < 1e-10
    assert "c0 trains alone: it was given a micro-batch" in caplog.text
    assert "c1 trains alone: it was given activation checkpointing" in caplog.text


def test_one_clients_failure_is_its_own(passes):
    class Failing(Classification):
        def losses(self, model, batch):
            if (batch["input_ids"] == 60).any():
                raise RuntimeError("no such word")
            return super().losses(model, batch)

    method, backbone = made("fedit", **LORA), classifier()
    engine, state = built(method, backbone, make_classification(kind=Failing), LIKE, max_clients=5)
    broken = engine.by_id["c3"]
    broken.splits["train"][0] = Encoded((60, 3), 0)
    reference, _ = built(method, backbone, make_classification(kind=Failing), LIKE)
    messages = [Message(name, 1, method.send(state, client.spec)) for name, client in engine.by_id.items()]
    outcomes = {outcome.client: outcome for outcome in engine.train(messages)}
    wanted = {outcome.client: outcome for outcome in reference.train(messages)}
    assert {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure} == {
        "c3": "RuntimeError: no such word"
    }
    assert broken.local.trained is None
    for name in ("c0", "c1", "c2", "c4"):
        assert of_tensors(outcomes[name].reply.tensors, wanted[name].reply.tensors) == 0.0


def test_of_a_group_that_hangs_each_client_trains_alone(passes):
    release = threading.Event()

    class Hanging(Classification):
        def losses(self, model, batch):
            if (batch["input_ids"] == 2).any():
                release.wait(60)
            return super().losses(model, batch)

    method, backbone = made("fedit", **LORA), classifier()
    engine, state = built(method, backbone, make_classification(kind=Hanging), LIKE, max_clients=5)
    engine.by_id["c3"].splits["train"][0] = Encoded((2, 3), 0)
    messages = [Message(name, 1, method.send(state, client.spec)) for name, client in engine.by_id.items()]
    outcomes = {outcome.client: outcome for outcome in engine.train(messages, deadline=0.2)}
    release.set()
    assert sorted(outcomes) == sorted(passes[0]) == ["c0", "c1", "c2", "c3", "c4"] and passes[1] == [5]
    assert "no reply after 0.2 s" in outcomes["c3"].failure
    engine.close()


def test_clients_that_memory_does_not_hold_together_train_in_smaller_groups(passes, caplog):
    class Small(Classification):  # as an accelerator that holds eight rows
        def losses(self, model, batch):
            if len(batch["input_ids"]) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(model, batch)

    method, backbone = made("fedit", **LORA), classifier()
    wanted = rounds(method, *built(method, backbone, make_classification(kind=Small), LIKE))
    engine, state = built(method, backbone, make_classification(kind=Small), LIKE, max_clients=5)
    got = rounds(method, engine, state)
    assert largest_difference(got, wanted) < 1e-10
    assert engine.max_clients == 2
    assert passes == (["c2", "c2"], [5, 2, 2, 2, 2])  # what does not fit is tried once in the whole run
    assert "memory does not hold these 5 clients in one pass: 2 at once" in caplog.text


def test_a_client_that_diverges_takes_nobody_with_it(passes):
    method, backbone, task = made("fedit", **LORA), classifier(), make_classification()
    engine, state = built(method, backbone, task, LIKE, max_clients=5)
    reference, _ = built(method, backbone, task, LIKE)
    messages = [Message(name, 1, dict(method.send(state, client.spec))) for name, client in engine.by_id.items()]
    head = next(name for name in messages[1].tensors if name.endswith("classifier.weight"))
    messages[1].tensors[head] = torch.full_like(messages[1].tensors[head], float("inf"))
    outcomes = {outcome.client: outcome for outcome in engine.train(messages)}
    wanted = {outcome.client: outcome for outcome in reference.train(messages)}
    assert outcomes["c1"].reply is None and outcomes["c1"].failure == wanted["c1"].failure
    assert engine.by_id["c1"].local.trained is None
    assert passes == (["c1"], [5])
    for name in ("c0", "c2", "c3", "c4"):
        assert of_tensors(outcomes[name].reply.tensors, wanted[name].reply.tensors) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_joined_batches_are_the_batch_of_all_rows(side):
    padding = Padding(PAD, side)
    for target in (True, False):
        parts = [rows(client, 3, target) for client in range(4)]
        whole = collate([row for part in parts for row in part], padding)
        pieces = concat_batches([collate(part, padding) | {"rows": torch.arange(3)} for part in parts], padding)
        assert pieces.keys() == whole.keys()
        assert all(torch.equal(pieces[name], tensor) for name, tensor in whole.items())


def test_groups_hold_clients_of_like_length_and_kind():
    method, backbone = made("fedit", **LORA), classifier()
    engine, state = built(method, backbone, make_classification(), LIKE, max_clients=2)
    engine.by_id["c1"].task = make_classification()
    messages = [Message(name, 1, method.send(state, client.spec)) for name, client in engine.by_id.items()]
    groups = [[message.client for message in group] for group in engine._groups(messages)]
    assert groups == [["c0", "c3"], ["c4", "c2"], ["c1"]]


def test_every_method_that_writes_its_own_loop_is_known():
    """A reminder: what the two engines share is `Method.train`; the rest is alone."""
    own = {name for name in list_built_in() if find_method(name).train is not Method.train}
    assert {"ditto", "fedhft"} <= own
