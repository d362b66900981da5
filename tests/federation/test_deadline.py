"""The round's deadline: the federation gives it to its engine, and a client that misses it is quarantined."""

from dataclasses import replace

import pytest
from helpers.engines import LIKE, LORA, built, classifier, made
from helpers.tasks import make_classification

from fedpeft.engines.base import make_overdue_outcome
from fedpeft.errors import NoQuorum
from fedpeft.federation.federation import Federation
from fedpeft.federation.training_config import TrainingConfig


@pytest.mark.parametrize("overdue", [2, 3])
def test_clients_past_it_are_quarantined_and_the_round_goes_on_with_a_quorum(overdue):
    method = made("fedit", **LORA)
    engine, state = built(method, classifier(), make_classification(), LIKE)
    given, train = [], engine.train

    def train_with_some_late(messages, deadline=None, round_deadline=None):
        given.append(deadline)
        for outcome in train(messages, deadline):
            late = int(outcome.client[1:]) < overdue
            yield make_overdue_outcome(outcome.client, deadline, 9.5) if late else replace(outcome)

    engine.train = train_with_some_late
    training = TrainingConfig(batch_size=4, deadline_seconds=9, quorum=0.6)
    federation = Federation(method, engine, state, engine.clients(), engine.clients(), training, 0)
    reason = "no reply after 9 s, its deadline (training.deadline_seconds)"
    if overdue == 3:
        with pytest.raises(NoQuorum, match=r"2 of 5 clients replied usably, the quorum is 3 \(c0, c1, c2: no reply"):
            federation.step()
    else:
        assert federation.step().quarantined == {"c0": reason, "c1": reason}
    engine.close()
    assert given == [9]


def test_there_is_none_unless_the_experiment_says_so():
    assert TrainingConfig().deadline_seconds is None
