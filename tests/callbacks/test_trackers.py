"""What trackers wrote, read back by their own clients, of a run that was broken off and resumed."""

import json
import sys
from statistics import mean

import pytest
from helpers.mistakes import require_line

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec


class Stop(RunCallback):
    def on_round_end(self, record, validation):
        if record.round == 2:
            raise KeyboardInterrupt


def make_spec(file, tracking):
    return RunSpec(load_experiment(file, [f"tracking={tracking}"]), "fedit", 0, None, file.parent)


def read_validation(path):
    """Mean validation scores by round, as the run's own log has them."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    received = [line for line in lines if (line["split"], line.get("model")) == ("validation", "received")]
    rounds = sorted({line["round"] for line in received})
    return {r: mean(line["accuracy"] for line in received if line["round"] == r) for r in rounds}


def run_with_a_break(spec, path):
    with pytest.raises(KeyboardInterrupt):
        start(spec, path, Stop(), export=False)
    return resume(path, RunCallback(), export=False)


def test_tensorboard(experiment_file, tmp_path):
    pytest.importorskip("tensorboard", reason="extra tracking is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run_with_a_break(make_spec(experiment_file, "{tensorboard: {}}"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    scores = {event.step: event.value for event in events.Scalars("validation/accuracy")}
    assert scores == pytest.approx(read_validation(tmp_path / "run"))
    (test,) = events.Scalars("test/accuracy")
    assert test.value == pytest.approx(result["test"]["deployed"]["by_client"])
    assert len(events.Scalars("train/loss")) == len(events.Scalars("bytes/up")) == 3


def test_mlflow(experiment_file, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny brings no database
    mlflow = pytest.importorskip("mlflow", reason="extra tracking is not installed")
    uri = (tmp_path / "mlruns").as_uri()
    spec = make_spec(experiment_file, f"{{mlflow: {{uri: '{uri}', experiment: x}}}}")
    result = run_with_a_break(spec, tmp_path / "run")
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["method"] == "fedit" and run.data.params["lr"] == "0.005"
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "validation/accuracy")}
    assert history == pytest.approx(read_validation(tmp_path / "run"))
    assert run.data.metrics["test/accuracy"] == result["test"]["deployed"]["by_client"]


@pytest.mark.parametrize("module", ["torch.utils.tensorboard", "mlflow", "wandb"])
def test_one_that_is_not_installed_is_told_before_anything_trains(experiment_file, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    name = module.rpartition(".")[2]
    spec = make_spec(experiment_file, f"{{{name}: {{}}}}")
    require_line(lambda: start(spec, tmp_path / "run", RunCallback()), f"tracking.{name}: {name} is not", "pip install")
    assert not (tmp_path / "run").exists()


def test_tracking_is_no_other_run(experiment_file):
    assert make_spec(experiment_file, "{mlflow: {}}").find_difference(make_spec(experiment_file, "{}")) == ""
    require_line(lambda: make_spec(experiment_file, "{mlfow: {}}"), "unknown key 'tracking.mlfow'", "'mlflow'")
