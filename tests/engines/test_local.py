"""How the local engine hands clients to its workers; what they compute is tested with the methods and the runner."""

import pytest

from fedpeft.engines import local
from fedpeft.engines.local import LocalEngine
from fedpeft.federation.message import Message
from fedpeft.federation.training_config import TrainingConfig

MESSAGES = [Message(f"c{i}", 1, {}) for i in range(50)]


@pytest.fixture(params=[1, 3])
def engine(request):
    engine = LocalEngine(None, [], {}, TrainingConfig(), 0, request.param)
    yield engine
    engine.close()


@pytest.mark.parametrize("hand_over", [0.0, 60.0])
def test_every_message_is_worked_on_once(engine, monkeypatch, hand_over):
    monkeypatch.setattr(local, "HAND_OVER", hand_over)
    for count in (0, 1, len(MESSAGES)):
        seen = []

        def work(message, seen=seen):
            seen.append(message.client)
            return message.client

        results = list(engine._each(work, MESSAGES[:count]))
        assert sorted(results) == sorted(seen) == sorted(message.client for message in MESSAGES[:count])


def test_an_error_reaches_the_caller_and_the_engine_goes_on(engine):
    def work(message):
        if message.client == "c7":
            raise RuntimeError("of c7")
        return message.client

    with pytest.raises(RuntimeError, match="of c7"):
        list(engine._each(work, MESSAGES))
    assert len(list(engine._each(lambda message: message.client, MESSAGES))) == len(MESSAGES)


def test_who_stops_listening_stops_the_clients_that_have_not_begun(engine, monkeypatch):
    monkeypatch.setattr(local, "HAND_OVER", 0.0)  # every client comes back at once
    seen = []
    results = engine._each(seen.append, MESSAGES)
    next(results)
    results.close()
    engine.close()  # waits for those under way
    assert 1 <= len(seen) <= 2 * engine._workers
