"""What loading a model and training one client tell of a run, before it begins."""

from helpers.mistakes import require_line

from fedpeft.config import load_experiment
from fedpeft.runs.check_model import check_model


def test_each_method_is_tried_and_nothing_is_written(experiment_file, tmp_path):
    experiment = load_experiment(experiment_file, ["methods.fedit.lr=[1e-3, 1e-2]", "model.max_length=5"])
    before = sorted(tmp_path.rglob("*"))
    checks = list(check_model(experiment, ["fedit", "centralised", "fedreft"], tmp_path))
    assert [check.label for check in checks] == ["fedit", "centralised", "fedreft"]
    fedit, _, fedreft = checks
    assert fedit.adapter_parameters > fedreft.adapter_parameters > 0 and fedit.head_parameters == 66
    assert fedit.message_mib > 0 and fedit.peak_mib > 100 and fedit.seconds > 0
    assert any("model.max_length=5" in note for note in fedit.notes)
    assert sorted(tmp_path.rglob("*")) == before


def test_more_rounds_take_longer_in_proportion(experiment_file, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpeft.runs.check_model.time.perf_counter", lambda: 0.0)  # evaluation takes no time
    monkeypatch.setattr("fedpeft.engines.local.LocalEngine.train", _answer(seconds=2.0))
    (check,) = check_model(load_experiment(experiment_file, ["workers=1", "training.rounds=5"]), ["fedit"], tmp_path)
    assert check.seconds == 2.0 * 3 * 5
    (check,) = check_model(load_experiment(experiment_file, ["workers=9", "training.rounds=5"]), ["fedit"], tmp_path)
    assert check.seconds == 2.0 * 5  # three clients keep three workers busy


def test_a_client_that_cannot_be_trained_is_one_line(experiment_file, tmp_path, monkeypatch):
    monkeypatch.setattr("fedpeft.engines.local.LocalEngine.train", _answer(failure="RuntimeError: no memory left"))
    experiment = load_experiment(experiment_file)
    require_line(
        lambda: list(check_model(experiment, ["fedit"], tmp_path)), "methods.fedit", "cannot be trained: Runtime"
    )


def _answer(seconds=0.0, failure=None):
    from fedpeft.engines.base import Outcome
    from fedpeft.federation.message import Reply

    def train(engine, messages, *deadlines):
        for message in messages:
            reply = None if failure else Reply(message.client, message.round, {}, {})
            yield Outcome(message.client, reply, failure, seconds)

    return train
