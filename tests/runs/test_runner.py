"""Whole runs on a tiny real model: every method, every engine setting, broken off and resumed."""

import json
from dataclasses import replace

import pytest
import yaml

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.federation import method, training
from fedpeft.federation.method import Method
from fedpeft.methods import list_built_in
from fedpeft.runs import runner
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec


class StoppingCallback(RunCallback):
    """Watches nothing; may break the run off after some rounds."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after

    def on_client_end(self, outcome):
        assert outcome.failure is None

    def on_round_end(self, record, validation):
        if record.round == self.stop_after:
            raise KeyboardInterrupt


def settings(file, label, overrides=(), seed=0):
    return RunSpec(load_experiment(file, list(overrides)), label, seed, None, file.parent)


def contents(path):
    """Everything that the seed determines: metrics, and every exported adapter's bytes."""
    adapters = sorted(path.glob("clients/*/adapter/adapter_model.safetensors"))
    return (path / "metrics.jsonl").read_text(), {str(a.relative_to(path)): a.read_bytes() for a in adapters}


@pytest.mark.parametrize("label", list_built_in())
def test_every_method_learns_the_task_and_exports_every_client(experiment_file, tmp_path, label):
    result = start(
        settings(experiment_file, label, ["training.rounds=8", "training.evaluate_every=0"]),
        tmp_path / "run",
        StoppingCallback(),
    )
    learned = result["test"]["deployed"]["by_client"] > 0.7  # a coin gives 0.5 ± 0.07 on 48 test rows
    assert learned == (label != "zero_shot")
    assert len(contents(tmp_path / "run")[1]) == 3
    assert result["rows"]["site0"]["test"] > 0
    seconds = result["seconds"]
    assert seconds["total"] > seconds["train"] + seconds["aggregate"] + seconds["evaluate"] - 0.02  # rounded
    if label == "local":
        assert result["bytes_up"] < 200  # a header and no tensor
    elif label in ("fedit", "fedavg_loreft", "fedreft", "ditto", "ifca"):
        trained = 4 * (result["adapter_parameters"] + result["head_parameters"])
        assert trained < result["bytes_up"] < trained + 8000


def resume_after(file, tmp_path, label, stop_after, overrides):
    """The folder of a run that was broken off after a round and resumed."""
    with pytest.raises(KeyboardInterrupt):
        start(settings(file, label, overrides), tmp_path / "broken", StoppingCallback(stop_after))
    assert not (tmp_path / "broken" / "result.json").exists()
    resumed = resume(tmp_path / "broken", StoppingCallback())
    assert resume(tmp_path / "broken", StoppingCallback()) == resumed  # a finished run is left as it is
    return tmp_path / "broken"


@pytest.mark.parametrize("label", list_built_in())
def test_neither_workers_nor_a_break_nor_what_clients_keep_changes_a_bit(experiment_file, tmp_path, label):
    """One run with one worker, against one with three that was broken off and resumed, and one that keeps less."""
    overrides = ["training.participation=0.6", f"methods.{label}.lr=0.02"]
    whole = start(settings(experiment_file, label, [*overrides, "workers=1"]), tmp_path / "whole", StoppingCallback())
    resumed = resume_after(experiment_file, tmp_path, label, 1, [*overrides, "workers=3"])
    assert contents(resumed) == contents(tmp_path / "whole")
    # A method that reads in a later round what clients trained says so: `uses_client_state`.
    overrides.append("training.before_aggregation=false")
    forgetful = start(settings(experiment_file, label, overrides), tmp_path / "forgetful", StoppingCallback())
    kept = "trained" if label == "fedavg_ft" else "received"
    assert forgetful["test"][kept] == forgetful["test"]["deployed"] == whole["test"][kept]
    assert set(forgetful["test"]) == {"deployed", kept} <= set(whole["test"])
    assert set(forgetful["deployment"]["choices"].values()) == {kept}


@pytest.mark.parametrize(("label", "stop_after"), [("fedreft", 2), ("fedreft", 3), ("fedhft", 3)])
def test_a_later_break_changes_no_bit(experiment_file, tmp_path, label, stop_after):
    overrides = ["training.participation=0.6", f"methods.{label}.lr=0.02"]
    start(settings(experiment_file, label, overrides), tmp_path / "whole", StoppingCallback())
    resumed = resume_after(experiment_file, tmp_path, label, stop_after, overrides)
    assert contents(resumed) == contents(tmp_path / "whole")


@pytest.mark.parametrize("label", ["fedit", "fedreft"])
def test_the_number_of_workers_changes_no_bit_where_all_take_part(experiment_file, tmp_path, label):
    for workers in (1, 3):
        start(settings(experiment_file, label, [f"workers={workers}"]), tmp_path / str(workers), StoppingCallback())
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


LEVELS = (
    "resources=[{rank: 4}, {rank: 2, layers: 1, density: 0.5, micro_batch: 2}, "
    "{rank: 1, density: 0.3, checkpointing: true}]"
)


@pytest.mark.parametrize("label", ["local", "hetlora", "flora", "flexlora", "fedhft", "fedhft-before"])
def test_clients_of_unlike_resources_train_together(experiment_file, tmp_path, label):
    overrides = [LEVELS, f"methods.{label}.method={label.split('-')[0]}", f"methods.{label}.lr=1e-2"]
    overrides += ["methods.fedhft-before.masks=before", "methods.fedhft-before.warmup=1"] * ("-" in label)
    result = start(settings(experiment_file, label, overrides), tmp_path / "run", StoppingCallback())
    sizes = {len(adapter) for adapter in contents(tmp_path / "run")[1].values()}
    assert result["quarantined"] == 0 and len(sizes) > 1  # unlike ranks, and one client with half the layers
    with pytest.raises(KeyboardInterrupt):
        start(settings(experiment_file, label, overrides), tmp_path / "broken", StoppingCallback(1))
    resume(tmp_path / "broken", StoppingCallback())
    assert contents(tmp_path / "broken") == contents(tmp_path / "run")


def test_a_method_that_needs_clients_alike_says_so_before_anything_is_written(experiment_file, tmp_path):
    with pytest.raises(UserError, match="levels: lowest"):
        start(settings(experiment_file, "fedit", [LEVELS]), tmp_path / "run", StoppingCallback())
    assert not (tmp_path / "run").exists()
    lowest = start(
        settings(experiment_file, "fedit", [LEVELS, "methods.fedit.levels=lowest"]),
        tmp_path / "low",
        StoppingCallback(),
    )
    assert lowest["adapter_parameters"] == (4 * (32 + 32) + 2 * (32 + 48))  # rank 1 on the top block's six layers


def test_micro_batches_and_checkpointing_change_nothing_but_memory(experiment_file, tmp_path):
    """Only rounding: the mean loss of a batch is the weighted mean of its parts."""
    scores = []
    for name, levels in (("plain", "[]"), ("small", "[{micro_batch: 1, checkpointing: true}]")):
        result = start(settings(experiment_file, "fedit", [f"resources={levels}"]), tmp_path / name, StoppingCallback())
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        scores.append([line["loss"] for line in lines if line["split"] == "train"])
        assert result["rounds"] == 3
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_bytes_counted_are_bytes_on_the_wire(experiment_file, tmp_path, monkeypatch):
    """Every message and reply of a run is encoded, counted, decoded, and goes on as it was."""
    from fedpeft.engines.local import LocalEngine
    from fedpeft.federation.message import decode, encode

    wire = {"down": 0, "up": 0}
    real = LocalEngine.train

    def train(self, messages, *rest):
        sent = [encode(message) for message in messages]
        wire["down"] += sum(map(len, sent))
        for outcome in real(self, [decode(data) for data in sent], *rest):
            data = encode(outcome.reply)
            wire["up"] += len(data)
            yield replace(outcome, reply=decode(data))

    monkeypatch.setattr(LocalEngine, "train", train)
    for label in ("fedhft", "flora", "fedreft"):
        wire |= {"down": 0, "up": 0}
        result = start(settings(experiment_file, label), tmp_path / label, StoppingCallback())
        assert wire["down"] == pytest.approx(result["bytes_down"] * 9, abs=0.5)  # 3 clients, 3 rounds
        assert wire["up"] == pytest.approx(result["bytes_up"] * 9, abs=0.5)


def test_a_run_killed_before_it_dropped_its_checkpoint_drops_it_later(experiment_file, tmp_path):
    for export, kept in ((False, False), (True, True)):
        path = tmp_path / f"run{export}"
        start(settings(experiment_file, "fedit", ["training.rounds=1"]), path, RunCallback(), export=export)
        (path / "checkpoint.safetensors").touch()
        resume(path, RunCallback(), export=False)
        assert (path / "checkpoint.safetensors").exists() == kept  # one that exported needs it for clients that join


def test_seeds_change_the_result(experiment_file, tmp_path):
    for seed in (0, 1):
        start(settings(experiment_file, "fedit", seed=seed), tmp_path / str(seed), StoppingCallback())
    assert contents(tmp_path / "0") != contents(tmp_path / "1")


def test_a_run_is_never_overwritten(experiment_file, tmp_path):
    start(settings(experiment_file, "fedit", ["training.rounds=1"]), tmp_path / "run", StoppingCallback())
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        start(settings(experiment_file, "local"), tmp_path / "run", StoppingCallback())
    assert contents(tmp_path / "run") == before


def test_the_test_split_is_looked_at_after_the_last_round_only(experiment_file, tmp_path):
    start(settings(experiment_file, "fedreft"), tmp_path / "run", StoppingCallback())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {line["round"] for line in lines if line["split"] == "test"} == {3}
    assert {line["round"] for line in lines if line["split"] == "validation"} == {1, 2, 3}
    mixed = [line["mixing_weight"] for line in lines if line["split"] == "train" and line["round"] > 1]
    assert mixed and all(0 <= weight <= 1 for weight in mixed)


def test_each_client_deploys_its_best_on_validation_and_exports_it(experiment_file, tmp_path):
    result = start(settings(experiment_file, "fedit"), tmp_path / "run", StoppingCallback())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = {(x["client"], x["model"]): x for x in lines if x["split"] == "validation" and x["round"] == 3}
    choices = result["deployment"]["choices"]
    for client, choice in choices.items():
        received, trained = ((own["accuracy"], -own["loss"]) for own in (last[client, m] for m in MODELS))
        assert choice == ("trained" if trained > received else "received")
        assert result["test_by_client"]["deployed"][client] == result["test_by_client"][choice][client]
    assert set(choices.values()) == {"received", "trained"}  # here both are somebody's
    adapters = contents(tmp_path / "run")[1].values()
    assert len(set(adapters)) == 1 + list(choices.values()).count("trained")


def test_with_both_candidates_validated_the_curve_is_that_of_the_deployed_models(experiment_file, tmp_path):
    whole = start(settings(experiment_file, "fedit"), tmp_path / "whole", StoppingCallback())
    spec = settings(experiment_file, "fedit", ["training.validate_candidates=true"])
    with pytest.raises(KeyboardInterrupt):
        start(spec, tmp_path / "run", StoppingCallback(2))
    result = resume(tmp_path / "run", StoppingCallback())
    for deployment in (whole["deployment"], result["deployment"]):
        assert deployment == whole["deployment"]
    last = result["curve"]["points"][-1]
    assert (result["curve"]["model"], whole["curve"]["model"]) == ("deployed", "received")
    assert last["score"] == pytest.approx(result["deployment"]["validation"]["deployed"]["by_client"])
    assert [p["bytes"] for p in result["curve"]["points"]] == [p["bytes"] for p in whole["curve"]["points"]]
    assert last["bytes"] == pytest.approx(9 * (result["bytes_down"] + result["bytes_up"]))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert sum(line["split"] == "validation" for line in lines) == 2 * 3 * 3  # models, rounds, clients


MODELS = ("received", "trained")


def test_a_client_that_fails_is_quarantined_and_below_the_quorum_the_run_stops(experiment_file, tmp_path, monkeypatch):
    from fedpeft.methods.fedit import FedIt

    failing = {"site1"}
    real = FedIt.reply

    def reply(self, model, message, client):
        if client.spec.id in failing:
            raise RuntimeError("no memory left")
        return real(self, model, message, client)

    monkeypatch.setattr(FedIt, "reply", reply)
    monkeypatch.setattr(StoppingCallback, "on_client_end", lambda self, outcome: None)
    result = start(settings(experiment_file, "fedit"), tmp_path / "one", StoppingCallback())
    assert result["quarantined"] == 3
    lines = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    left_out = [(x["client"], x["quarantined"]) for x in lines if x.get("failed")]
    assert left_out == [("site1", "RuntimeError: no memory left")] * 3
    text = (tmp_path / "one/failures.log").read_text()
    assert text.count("Traceback") == 3 and "raise RuntimeError" in text
    failing.add("site2")
    with pytest.raises(UserError, match=r"1 of 3 clients replied usably, the quorum is 2 .*no memory left"):
        start(settings(experiment_file, "fedit"), tmp_path / "two", StoppingCallback())


def test_a_full_disk_at_a_checkpoint_is_one_line_and_can_be_resumed(experiment_file, tmp_path, monkeypatch):
    from fedpeft import atomic_files

    start(settings(experiment_file, "fedit"), tmp_path / "whole", StoppingCallback())
    real, saves = atomic_files.os.replace, []

    def replace(source, target):
        if str(target).endswith("checkpoint.safetensors"):
            saves.append(target)
            if len(saves) == 2:
                raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(atomic_files.os, "replace", replace)
    with pytest.raises(UserError, match="No space left"):
        start(settings(experiment_file, "fedit"), tmp_path / "full", StoppingCallback())
    resume(tmp_path / "full", StoppingCallback())
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_resolved_settings_are_kept(experiment_file, tmp_path):
    start(
        settings(experiment_file, "fedit", ["methods.fedit.adapter.r=3", "training.rounds=1"]),
        tmp_path / "r",
        StoppingCallback(),
    )
    kept = yaml.safe_load((tmp_path / "r/experiment.yaml").read_text())["experiment"]
    assert kept["methods"]["fedit"]["adapter"]["r"] == 3
    assert kept["methods"]["fedit"]["adapter"]["alpha"] == 16
    assert RunSpec.read(runner.RunFolder(tmp_path / "r")).label == "fedit"


@pytest.mark.parametrize("label", ["fedreft", "fedsa_lora", "local", "ditto", "fedhft"])
def test_a_client_that_diverges_in_one_round_is_left_as_it_was_and_goes_on(
    experiment_file, tmp_path, monkeypatch, label
):
    real = Method.lr

    def lr(self, message, settings):
        return 1e36 if (message.client, message.round) == ("site1", 2) else real(self, message, settings)

    monkeypatch.setattr(Method, "lr", lr)
    monkeypatch.setattr(StoppingCallback, "on_client_end", lambda self, outcome: None)
    result = start(settings(experiment_file, label), tmp_path / "run", StoppingCallback())
    assert result["quarantined"] == 1
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(x["client"], x["round"]) for x in lines if "quarantined" in x] == [("site1", 2)]
    assert all(
        x["loss"] == x["loss"] for x in lines if "loss" in x or ("quarantined" not in x and x["split"] != "server")
    )


def test_what_a_failing_client_leaves_behind_reaches_no_other(experiment_file, tmp_path, monkeypatch):
    """It fails between its gradients and the optimiser's step, on a slot that others use next, or do not."""
    real = method.train_locally

    def failing(trainer, *rest):
        if trainer.client.spec.id == "site0":
            training._gradients(trainer.model, trainer.client.task, next(trainer.batches), 4)
            raise RuntimeError("no memory left")
        return real(trainer, *rest)

    monkeypatch.setattr(method, "train_locally", failing)
    monkeypatch.setattr(StoppingCallback, "on_client_end", lambda self, outcome: None)
    for workers in (1, 3):
        start(settings(experiment_file, "fedit", [f"workers={workers}"]), tmp_path / str(workers), StoppingCallback())
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
