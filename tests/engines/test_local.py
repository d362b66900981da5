"""What the local engine does about clients that fail in their own ways; what they compute is tested elsewhere."""

import threading
import time

import pytest
import torch
from helpers.engines import LIKE, LORA, built, classifier, made
from helpers.tasks import make_classification

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
