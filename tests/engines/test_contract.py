"""The contract of `engines/base.py`: every engine that runs in one process passes the same tests."""

import inspect

import pytest
import torch
from helpers.engines import LIKE, LORA, UNLIKE, built, classifier, made
from safetensors.torch import load_file

from fedpeft.engines import find_engine, list_engines
from fedpeft.engines.base import Engine, EngineSetup
from fedpeft.errors import UserError
from fedpeft.federation.message import Message
from fedpeft.tasks.encode import Encoded

NAMES = list_engines()


@pytest.fixture(params=NAMES)
def make(request):
    """make(method, resources=LIKE) -> an engine over five fresh clients, and the server's start."""
    engines = []

    def build(method, resources=LIKE, workers=1):
        local, state = built(method, classifier(), Task(), resources)
        local.close()
        clients = list(local.by_id.values())
        setup = EngineSetup(method, clients, local.templates, local.training, 0, workers, local.accelerations, 3)
        engines.append(find_engine(request.param).make(setup))
        return engines[-1], state

    yield build
    for engine in engines:
        engine.close()


class Task:
    """Cross entropy; scores are the mean loss and the number of examples."""

    metric = "loss"

    def losses(self, model, batch):
        logits = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")

    @torch.inference_mode()
    def scores(self, model, rows, padding):
        from fedpeft.tasks.encode import collate

        return {"loss": float(self.losses(model, collate(rows, padding)).mean()), "examples": len(rows)}


def send(method, engine, state, round_=1):
    return [Message(spec.id, round_, method.send(state, spec)) for spec in engine.clients()]


def test_the_engines_are_this_packages_files():
    assert "local" in NAMES
    assert all(issubclass(find_engine(name), Engine) for name in NAMES)
    with pytest.raises(UserError, match=f"unknown engine 'lokal'; known: {', '.join(NAMES)}"):
        find_engine("lokal")


def test_clients_are_told_by_id_examples_and_resources(make):
    engine, _ = make(made("fedit", **LORA))
    assert [spec.id for spec in engine.clients()] == ["c0", "c1", "c2", "c3", "c4"]
    assert [spec.examples for spec in engine.clients()] == [13, 8, 3, 9, 4]
    assert [spec.resources for spec in engine.clients()] == LIKE


def test_every_message_has_one_outcome_of_its_client_and_round(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    outcomes = list(engine.train(send(method, engine, state, 7)[1:]))
    assert sorted(outcome.client for outcome in outcomes) == ["c1", "c2", "c3", "c4"]
    for outcome in outcomes:
        assert outcome.failure is None and outcome.seconds > 0
        assert (outcome.reply.client, outcome.reply.round) == (outcome.client, 7)


def test_a_failure_is_an_outcome_and_leaves_the_client_as_it_was(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    engine.by_id["c3"].splits["train"][0] = Encoded((60, 3), 0)  # a token that the model does not have
    before = engine.save(0)["c3"]
    failures = {outcome.client: outcome.failure for outcome in engine.train(send(method, engine, state))}
    assert {client for client, failure in failures.items() if failure} == {"c3"}
    assert engine.save(1)["c3"] == before


def test_scores_come_in_the_messages_order_and_read_the_split_asked_for(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    messages = send(method, engine, state)[::-1]
    scores = engine.evaluate(messages, "validation", "personal")
    assert list(scores) == [message.client for message in messages]
    assert {own["examples"] for own in scores.values()} == {5}
    assert [engine.evaluate(messages, "train", "personal")[c]["examples"] for c in ("c0", "c2")] == [13, 3]


def test_personal_and_trained_are_two_models(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    list(engine.train(send(method, engine, state)))
    trained = engine.evaluate(send(method, engine, state), "train", "trained")
    personal = engine.evaluate(send(method, engine, state), "train", "personal")
    assert all(trained[client]["loss"] < personal[client]["loss"] for client in trained)


def test_cross_evaluation_is_by_whose_model_then_by_whose_examples(make):
    method = made("local", **LORA)
    engine, state = make(method)
    list(engine.train(send(method, engine, state)))
    messages = send(method, engine, state)
    scores = engine.cross_evaluate(messages, "train")
    own = engine.evaluate(messages, "train", "personal")
    assert {client: scores[client][client] for client in scores} == own
    assert [scores["c0"][client]["examples"] for client in sorted(scores)] == [13, 8, 3, 9, 4]
    assert scores["c0"]["c1"] != scores["c1"]["c1"]


def test_a_restored_engine_goes_on_to_the_same_bits(make):
    method = made("local", **LORA)
    engine, state = make(method, UNLIKE)
    list(engine.train(send(method, engine, state)))
    saved = {name: dict(vars(own)) for name, own in engine.save(1).items()}
    again, _ = make(method, UNLIKE)
    again.restore(1, saved)
    results = []
    for each in (engine, again):
        list(each.train(send(method, each, state, 2)))
        results.append(each.save(2))
    for name, own in results[0].items():
        assert all(torch.equal(tensor, results[1][name].trained[key]) for key, tensor in own.trained.items())


def test_a_state_of_an_earlier_version_is_restored(make):
    engine, _ = make(made("local", **LORA))
    tensors = {"x": torch.ones(2)}
    engine.restore(1, {"c1": {"trained": tensors, "kept": {}, "scalars": {}}})  # a field that is gone
    assert engine.save(1)["c1"].trained is tensors


def test_exported_adapters_are_the_personal_models(make, tmp_path):
    method = made("fedit", **LORA)
    engine, state = make(method)
    engine.export(send(method, engine, state), tmp_path / "clients", {"labels": ["a"]})
    for client in ("c0", "c4"):
        weights = load_file(tmp_path / "clients" / client / "adapter" / "adapter_model.safetensors")
        sent = method.send(state, engine.clients()[0])
        assert weights.keys() == sent.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in sent.items())
        assert (tmp_path / "clients" / client / "adapter" / "fedpeft.json").read_text()


@pytest.mark.parametrize("workers", [1, 3])
def test_results_do_not_depend_on_the_workers(make, workers):
    method = made("local", **LORA)
    (one, state), (several, _) = make(method), make(method, workers=workers)
    for engine in (one, several):
        list(engine.train(send(method, engine, state)))
    left, right = one.save(1), several.save(1)
    for name, own in left.items():
        assert all(torch.equal(tensor, right[name].trained[key]) for key, tensor in own.trained.items())


def test_a_closed_engine_can_be_closed_again(make):
    engine, _ = make(made("local", **LORA))
    engine.close()
    engine.close()


def test_the_contract_is_whole():
    """What a run may ask of an engine is what the base class says, each with a docstring."""
    for name, member in inspect.getmembers(Engine, inspect.isfunction):
        assert name.startswith("_") or (member.__isabstractmethod__ and member.__doc__), name
