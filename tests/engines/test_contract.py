"""The contract of `engines/base.py`: every engine that runs in one process passes the same tests."""

import inspect
import threading
from functools import partial

import pytest
import torch
from helpers.engines import LIKE, LORA, SETTINGS, UNLIKE, built, classifier, made
from helpers.loopback import LoopbackEngine
from safetensors.torch import load_file

from fedpeft.engines import find_engine, list_engines
from fedpeft.engines.base import Engine, EngineSetup
from fedpeft.errors import UserError
from fedpeft.federation import training
from fedpeft.federation.message import Message
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Encoded

NAMES = list_engines()
IN_PROCESS = [name for name in NAMES if not name.startswith("flower")]  # the others have tests of their own
NAMES_OF_CLIENTS = ("c0", "c1", "c2", "c3", "c4")
SPOILT = 2  # a token that no example has


@pytest.fixture(
    params=[
        *((name, ()) for name in IN_PROCESS),
        *((name, ("cpu", "cpu")) for name in ("local", "batched")),
        ("loopback", ()),  # both halves of `flower-sim`, without Flower
    ]
)
def make(request):
    """make(method, resources=LIKE) -> an engine over five fresh clients, and the server's start."""
    engines, (engine_name, devices) = [], request.param

    def build(method, resources=LIKE, workers=1):
        local, state = built(method, classifier(), Task(), resources)
        local.close()
        clients = list(local.by_id.values())
        count = max(workers, len(devices))
        setup = EngineSetup(method, clients, local.templates, local.training, 0, count, local.accelerations, 3, devices)
        kind = LoopbackEngine if engine_name == "loopback" else find_engine(engine_name)
        engines.append(kind.make(setup))
        return engines[-1], state

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture
def release():
    """An event that ends what a test leaves hanging."""
    event = threading.Event()
    yield event
    event.set()


class Task:
    """Cross entropy; scores are the mean loss and the number of examples."""

    metric = "loss"
    fail = None  # called before the losses of a batch that holds the token SPOILT

    def losses(self, model, batch):
        if self.fail is not None and (batch["input_ids"] == SPOILT).any():
            self.fail()
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


@pytest.mark.parametrize("label", ["fedit", "ditto", "fedhft", "feddpa_t"])
def test_the_schedule_of_the_run_knows_the_round(make, monkeypatch, label):
    rounds, real = [], training.compute_rate_factor
    monkeypatch.setattr(training, "compute_rate_factor", lambda *call: rounds.append(call[1]) or real(*call))
    method = made(label, **LORA)
    engine, state = make(method)
    assert not any(outcome.failure for outcome in engine.train(send(method, engine, state, 7)))
    assert set(rounds) == {7}


def test_a_failure_is_an_outcome_and_leaves_the_client_as_it_was(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    engine.by_id["c3"].splits["train"][0] = Encoded((60, 3), 0)  # a token that the model does not have
    before = engine.save(0)["c3"]
    failures = {outcome.client: outcome.failure for outcome in engine.train(send(method, engine, state))}
    assert {client for client, failure in failures.items() if failure} == {"c3"}
    assert engine.save(1)["c3"] == before


def spoil(engine, client, fail):
    """Has `fail` called in this client's local training, in whichever batch its first example stands."""
    clients = engine.by_id
    clients[client].splits["train"][0] = Encoded((SPOILT, 3), 0)
    clients[client].task.fail = fail


def test_a_client_that_never_returns_has_missed_its_deadline_and_changes_nothing(make, release):
    method = made("fedit", **LORA)
    engine, state = make(method, [LIKE[0], ClientResources(micro_batch=2), *LIKE[2:]])  # which trains alone everywhere
    spoil(engine, "c1", partial(release.wait, 20))
    outcomes = {outcome.client: outcome for outcome in engine.train(send(method, engine, state), deadline=1)}
    assert sorted(outcomes) == ["c0", "c1", "c2", "c3", "c4"]
    failures = {client: outcome.failure for client, outcome in outcomes.items() if outcome.failure}
    assert failures == {"c1": "no reply after 1 s, its deadline (training.deadline_seconds)"}
    assert outcomes["c1"].reply is None and 1 <= outcomes["c1"].seconds < 10
    trained = engine.save(1)
    release.set()  # it returns after all
    engine.by_id["c1"].task.fail = None
    assert not any(outcome.failure for outcome in engine.train(send(method, engine, state, 2)))
    assert trained["c1"].trained is None and trained["c0"].trained is not None


def test_when_the_rounds_time_is_over_nobody_is_waited_for_and_a_client_can_be_asked_again(make, release):
    method = made("fedit", **LORA)
    engine, state = make(method, [LIKE[0], ClientResources(micro_batch=2), *LIKE[2:]])
    if isinstance(engine, LoopbackEngine):
        pytest.skip("on a loaded machine a client asked again is sometimes late again: not yet understood")
    spoil(engine, "c1", partial(release.wait, 20))
    outcomes = list(engine.train(send(method, engine, state), deadline=15, round_deadline=0.5))
    assert sorted(outcome.client for outcome in outcomes) == ["c0", "c1", "c2", "c3", "c4"]
    late = [outcome for outcome in outcomes if outcome.failure]
    assert {o.failure for o in late} == {"no reply when the round's time was over (training.round_deadline_seconds)"}
    assert "c1" in [outcome.client for outcome in late] and all(outcome.seconds < 5 for outcome in late)
    engine.by_id["c1"].task.fail = None
    messages = [message for message in send(method, engine, state) if message.client in {o.client for o in late}]
    again = list(engine.train(messages, deadline=15, round_deadline=15))
    assert [outcome.failure for outcome in again] == [None] * len(messages)


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()])
def test_a_client_that_would_end_the_process_has_failed(make, error):
    def fail():
        raise error

    method = made("fedit", **LORA)
    engine, state = make(method)
    spoil(engine, "c2", fail)
    failures = {outcome.client: outcome.failure for outcome in engine.train(send(method, engine, state))}
    assert failures.pop("c2").startswith(type(error).__name__)
    assert list(failures.values()) == [None] * 4
    assert engine.save(1)["c2"].trained is None


def test_who_stops_listening_ends_the_round(make, release):
    method = made("fedit", **LORA)
    engine, state = make(method)
    before = engine.save(0)
    spoil(engine, "c0", partial(release.wait, 20))
    outcomes = engine.train(send(method, engine, state), deadline=30)
    threading.Timer(0.2, release.set).start()
    first = next(outcomes)
    outcomes.close()
    kept = engine.save(0)
    assert {name for name in kept if kept[name] != before[name]} <= {first.client}


def test_scores_come_in_the_messages_order_and_read_the_split_asked_for(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    messages = send(method, engine, state)[::-1]
    scores = engine.evaluate(messages, "validation", "received")
    assert list(scores) == [message.client for message in messages]
    assert {own["examples"] for own in scores.values()} == {5}
    assert [engine.evaluate(messages, "train", "received")[c]["examples"] for c in ("c0", "c2")] == [13, 3]


def test_a_client_whose_scores_never_come_has_none_by_its_deadline(make, release, monkeypatch):
    method = made("fedit", **LORA)
    engine, state = make(method)
    training = SETTINGS.model_copy(update={"deadline_seconds": 1.0})
    for local in (engine, getattr(engine, "local", None), getattr(engine, "relay", engine)):
        for part in (local, getattr(local, "engine", None)):  # a loopback engine has one at either end
            if hasattr(part, "training"):
                part.training = training
    spoil(engine, "c1", partial(release.wait, 20))
    scores = engine.evaluate(send(method, engine, state), "train", "received")
    assert list(scores) == ["c0", "c2", "c3", "c4"]
    with pytest.raises(UserError, match=r"c1.*not scored within 1 s, its deadline"):
        engine.cross_evaluate(send(method, engine, state)[1:2], "train", dict.fromkeys(NAMES_OF_CLIENTS, "received"))


def test_received_and_trained_are_two_models(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    list(engine.train(send(method, engine, state)))
    trained = engine.evaluate(send(method, engine, state), "train", "trained")
    received = engine.evaluate(send(method, engine, state), "train", "received")
    assert all(trained[client]["loss"] < received[client]["loss"] for client in trained)


def test_cross_evaluation_is_by_whose_model_then_by_whose_examples(make):
    method = made("local", **LORA)
    engine, state = make(method)
    list(engine.train(send(method, engine, state)))
    messages = send(method, engine, state)
    scores = engine.cross_evaluate(messages, "train", dict.fromkeys(NAMES_OF_CLIENTS, "received"))
    own = engine.evaluate(messages, "train", "received")
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


def test_cross_evaluation_is_of_the_model_that_each_client_deploys(make):
    method = made("fedit", **LORA)
    engine, state = make(method)
    list(engine.train(send(method, engine, state)))
    messages = send(method, engine, state)
    choices = dict.fromkeys(NAMES_OF_CLIENTS, "received") | {"c1": "trained"}
    scores = engine.cross_evaluate(messages, "train", choices)
    assert scores["c1"]["c1"] == engine.evaluate(messages, "train", "trained")["c1"]
    assert scores["c0"] == scores["c2"] != scores["c1"]


def test_exported_adapters_are_the_deployed_models(make, tmp_path):
    method = made("fedit", **LORA)
    engine, state = make(method)
    list(engine.train(send(method, engine, state)))
    choices = dict.fromkeys(NAMES_OF_CLIENTS, "received") | {"c4": "trained"}
    engine.export(send(method, engine, state), tmp_path / "clients", {"labels": ["a"]}, choices)
    for client, sent in (("c0", method.send(state, engine.clients()[0])), ("c4", engine.save(1)["c4"].trained)):
        weights = load_file(tmp_path / "clients" / client / "adapter" / "adapter_model.safetensors")
        assert weights.keys() == sent.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in sent.items())
        assert (tmp_path / "clients" / client / "adapter" / "fedpeft.json").read_text()


def test_under_fedhft_what_was_trained_is_exported_with_the_mixture_beside_it(make, tmp_path):
    method = made("fedhft", **LORA)
    engine, state = make(method)
    replies = [outcome.reply for outcome in engine.train(send(method, engine, state))]
    state = method.aggregate(state, sorted(replies, key=lambda reply: reply.client))
    assert not any(outcome.failure for outcome in engine.train(send(method, engine, state, 2)))
    choices = dict.fromkeys(NAMES_OF_CLIENTS, "trained")
    engine.export(send(method, engine, state, 3), tmp_path / "clients", {"labels": ["a"]}, choices)
    model = engine.templates["c1"].clone()
    model.restore(engine.save(2)["c1"].trained)
    assert model.frozen_delta  # the mixture of the second round
    weights = load_file(tmp_path / "clients/c1/adapter/adapter_model.safetensors")
    for module, (A, B) in model.effective_factors.items():
        a, b = (next(t for n, t in weights.items() if n == f"{module}.lora_{x}.weight") for x in "AB")
        torch.testing.assert_close(b.double() @ a.double(), B.double() @ A.double(), rtol=1e-5, atol=1e-7)


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
