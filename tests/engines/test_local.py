"""What the local engine does about clients that fail in their own ways; what they compute is tested elsewhere."""

import threading
import time

import pytest
import torch
from helpers.engines import LIKE, LORA, RANKS, built, classifier, made
from helpers.tasks import make_classification

from fedpeft.adapters import AdaptedModel
from fedpeft.errors import UserError
from fedpeft.federation.message import Message
from fedpeft.tasks.kinds.classification import Classification


def send(method, engine, state, round_=1):
    return [Message(spec.id, round_, method.send(state, spec)) for spec in engine.clients()]


def test_an_evaluation_that_leaves_the_process_is_an_error_that_names_the_client():
    class Leaving(Classification):
        def scores(self, model, rows, padding):
            raise SystemExit(0)

    method = made("fedit", **LORA)
    engine, state = built(method, classifier(), make_classification(kind=Leaving), LIKE)
    with pytest.raises(UserError, match=r"^client 'c0' ended with SystemExit: 0$"):
        engine.evaluate(send(method, engine, state), "validation", "received")
    engine.close()


def test_an_abandoned_client_stops_at_its_next_forward():
    """Whoever trains or evaluates: the models look, not the loops."""
    engine, _ = built(made("fedit", **LORA), classifier(), make_classification(), LIKE)
    begun, ended = threading.Event(), threading.Event()

    def work(message):
        model = engine._get_model(message.client)
        batch = {"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
        try:
            while True:
                model.model(**batch)
                begun.set()
        finally:
            ended.set()

    results = engine._each(work, [Message("c0", 1, {})])
    threading.Thread(target=lambda: next(results, None), daemon=True).start()
    assert begun.wait(10)
    start = time.monotonic()
    engine.close()
    assert ended.wait(1) and time.monotonic() - start < 4


@pytest.mark.parametrize(("label", "resources"), [("flora", LIKE), ("hetlora", RANKS)])
def test_clients_of_one_template_are_exported_from_one_model_as_each_alone(label, resources, tmp_path, monkeypatch):
    method = made(label, **LORA)
    engine, state = built(method, classifier(), make_classification(), resources)
    outcomes = list(engine.train(send(method, engine, state)))
    state = method.aggregate(state, [outcome.reply for outcome in outcomes])
    messages = send(method, engine, state, 2)
    choices = {message.client: "trained" if message.client == "c1" else "received" for message in messages}
    for message in messages:
        engine.export([message], tmp_path / "alone", {}, choices)
    clones, clone = [], AdaptedModel.clone
    monkeypatch.setattr(AdaptedModel, "clone", lambda model: clones.append(id(model)) or clone(model))
    engine.export(messages, tmp_path / "together", {}, choices)
    engine.close()
    templates = [id(template) for template in engine.templates.values()]
    assert sum(clones.count(template) for template in set(templates)) == len(set(templates)) < len(templates)
    files = sorted((tmp_path / "alone").rglob("*.safetensors"))
    assert len(files) == len(messages)
    for file in files:
        assert (tmp_path / "together" / file.relative_to(tmp_path / "alone")).read_bytes() == file.read_bytes()
