"""One round through a made-up engine: who is drawn, whose reply counts, and what stands in the record."""

from dataclasses import replace

import pytest
import torch

from fedpeft.engines.base import Outcome
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.fedit import FedIt

SPECS = [ClientSpec(name, 4) for name in ("d", "b", "a", "c")]
LAYOUT = {"w": torch.zeros(2)}


class MadeUpEngine:
    """Every client replies with its message plus one, last client first; `change` may alter an outcome."""

    def __init__(self, change=lambda outcome: outcome):
        self.change = change

    def train(self, messages):
        for message in reversed(messages):
            tensors = {name: t + 1 for name, t in message.tensors.items()}
            reply = Reply(message.client, message.round, tensors, {"examples": 4, "loss": 0.5})
            yield self.change(Outcome(message.client, reply, None, 0.25))


def make_federation(engine, **training):
    method = FedIt(FedIt.Options())
    state = method.start(FederationInfo(tuple(SPECS), {spec.id: LAYOUT for spec in SPECS}, {}), 0)
    return Federation(method, engine, state, SPECS, SPECS, TrainingConfig(**training), 3)


def test_clients_stand_in_the_order_of_their_ids():
    federation = make_federation(MadeUpEngine(), participation=0.75)
    assert [spec.id for spec in federation.evaluation_clients] == ["a", "b", "c", "d"]
    drawn = [[spec.id for spec in federation.select(r)] for r in range(1, 9)]
    assert all(ids == sorted(ids) and len(ids) == 3 for ids in drawn)
    assert len({tuple(ids) for ids in drawn}) > 1


def test_a_round_records_every_client_and_moves_the_state():
    federation = make_federation(MadeUpEngine())
    finished = []
    record = federation.step(finished.append)
    assert [outcome.client for outcome in finished] == ["d", "c", "b", "a"]  # as they end
    assert list(record.scalars) == ["d", "c", "b", "a"] and record.quarantined == {}
    assert record.client_seconds == dict.fromkeys("abcd", 0.25)
    assert federation.round == 1 and record.round == 1
    assert torch.equal(federation.method.send(federation.state, SPECS[0])["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: replace(o, reply=None, failure="no memory left"), "no memory left"),
        (lambda o: replace(o, reply=None), "no reply"),
        (lambda o: replace(o, reply=replace(o.reply, round=7)), "round 7"),
        (lambda o: replace(o, reply=replace(o.reply, client="a")), "'a'"),
    ],
)
def test_a_reply_that_does_not_count_is_quarantined_with_its_reason(change, reason):
    federation = make_federation(MadeUpEngine(lambda o: change(o) if o.client == "b" else o), quorum=0.5)
    record = federation.step()
    assert list(record.quarantined) == ["b"] and reason in record.quarantined["b"]
    assert "b" not in record.scalars and "b" not in record.bytes_up
    assert torch.equal(federation.method.send(federation.state, SPECS[0])["w"], torch.ones(2))
