"""The Python API as a user writes it: experiments, data, models, metrics and methods in code."""

import logging
import random
import signal

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset
from helpers.given import ROWS, SETTINGS, group_by_site, make_own_model

import fedpeft
from fedpeft.tasks import own_metrics


class Stop(fedpeft.RunCallback):
    def on_round_end(self, record, validation):
        raise ValueError("enough")


@pytest.fixture
def named(tiny_model):
    return SETTINGS | {"model": {"name": str(tiny_model), "max_length": 16}}


def examine_process():
    numpy = np.random.get_state()
    root = logging.getLogger()
    return (
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        (numpy[1].tolist(), numpy[2]),
        (root.level, root.handlers, logging.getLogger("fedpeft").handlers, logging.getLogger("fedpeft").level),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    )


def test_a_file_a_mapping_and_an_experiment_are_one_run_and_the_process_stays_as_it_was(named, tiny_data, tmp_path):
    settings = named | {"task": {"source": str(tiny_data)}}
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(settings))
    torch.set_num_threads(2)
    before = examine_process()
    records = []
    for i, source in enumerate((str(file), settings, fedpeft.Experiment(**settings))):
        overrides = {"training.rounds": 1}
        result = fedpeft.run(source, "fedit", seed=3, overrides=overrides, out=tmp_path / str(i))
        assert result.folder == tmp_path / str(i) / "tiny-fedit-3" and result.record["rounds"] == 1
        records.append(result.record["test"])
    assert records[0] == records[1] == records[2]
    assert examine_process() == before
    assert settings["training"]["rounds"] == 2  # what was given is not changed
    assert result.score == records[0]["deployed"]["by_client"] and result.metric == "accuracy"
    assert list(result.by_client().index) == result.clients == ["site0", "site1", "site2"]
    (prediction,) = result.predict("site1", ["the film was great"])
    assert prediction["label"] in ("0", "1") and result.adapter("site1").is_dir()


def make_forms():
    features = Dataset.from_list(ROWS).features
    features["label"] = ClassLabel(names=["bad", "good"])
    return {
        "rows": (ROWS, {}),
        "dataset": (Dataset.from_list(ROWS), {}),
        "labels by name": (Dataset.from_list(ROWS).cast(features), {}),
        "rows by client": (group_by_site(ROWS), {"partition": None}),
        "datasets by client": ({c: Dataset.from_list(rows) for c, rows in group_by_site(ROWS).items()}, {}),
    }


def test_every_form_of_data_comes_to_the_same_examples(named, tmp_path):
    digests = {}
    for form, (data, changes) in make_forms().items():
        result = fedpeft.run(named | changes, data=data, overrides={"training.rounds": 1}, out=tmp_path / form)
        fingerprint = fedpeft.runs.folder.RunFolder(result.folder).fingerprint
        digests[form] = {client: own.digest for client, own in fingerprint.clients.items()}
    assert all(digest == digests["rows"] for digest in digests.values())


def test_splits_are_kept(named, tmp_path):
    data = {c: {"train": rows[:50], "test": rows[50:]} for c, rows in group_by_site(ROWS).items()}
    result = fedpeft.run(named, data=data, overrides={"training.rounds": 1}, out=tmp_path)
    assert result.record["rows"]["site0"]["test"] == len(group_by_site(ROWS)["site0"]) - 50


def test_an_own_model_trains_is_not_changed_and_its_run_goes_on_with_the_same_inputs_alone(tiny_model, tmp_path):
    model, tokenizer = make_own_model(tiny_model)
    inputs = {"data": ROWS, "model": model, "tokenizer": tokenizer}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = fedpeft.run(SETTINGS, **inputs, out=tmp_path / "whole")
    assert whole.score > 0.6
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    (prediction,) = whole.predict("site1", ["the film was great"])
    assert prediction["label"] in ("0", "1")
    with pytest.raises(fedpeft.UserError, match="round 1 is kept"):
        fedpeft.run(SETTINGS, **inputs, out=tmp_path, callbacks=[Stop()])
    folder = tmp_path / "tiny-fedit-0"
    others = {
        "task.source: in-memory": {},
        "the model was given by a program": {"data": ROWS},
        "another model: the model's files are others": inputs | {"model": make_own_model(tiny_model, 1)[0]},
        "client 'site0' had": inputs | {"data": ROWS[1:]},
        "the examples of client 'site1' are others": inputs | {"data": [ROWS[0] | {"text": "we saw it"}, *ROWS[1:]]},
    }
    for words, given in others.items():
        with pytest.raises(fedpeft.UserError) as error:
            fedpeft.resume(folder, **given)
        assert words.replace("site1", ROWS[0]["site"]) in str(error.value)
    assert fedpeft.resume(folder, **inputs).record["test"] == whole.record["test"]


def test_a_comparison_is_a_table_with_an_own_method_and_an_own_metric(named, tmp_path, monkeypatch):
    monkeypatch.setattr(own_metrics, "_functions", {})
    monkeypatch.setattr(fedpeft.methods, "_registered", {})

    @fedpeft.register_method("mean_of_lora")
    class MeanOfLora(fedpeft.methods.find_method("fedit")):
        pass

    @fedpeft.register_metric("share_right")
    def share_right(predictions, references):
        assert set(references) <= {"0", "1"}
        return np.mean([p == r for p, r in zip(predictions, references, strict=True)])

    overrides = {"training.rounds": 1, "task.metric": "share_right"}
    methods = ["mean_of_lora", "local"]
    frame = fedpeft.compare(named, methods, seeds=2, data=ROWS, overrides=overrides, out=tmp_path / "c")
    assert list(frame["label"]) == methods and set(frame["metric"]) == {"share_right"}
    assert frame["deployed"].between(0, 1).all() and frame["deployed_sd"].notna().all()
    assert frame.attrs["folder"] == str(tmp_path / "c")
    assert fedpeft.compare(named, methods, seeds=2, data=ROWS, overrides=overrides, out=tmp_path / "c").equals(frame)


def test_a_client_joins_a_run_whose_data_and_model_were_given(tiny_model, tmp_path):
    model, tokenizer = make_own_model(tiny_model)
    settings = SETTINGS | {"partition": {"kind": "natural", "column": "client"}}
    inputs = {"data": group_by_site(ROWS), "model": model, "tokenizer": tokenizer}
    result = fedpeft.run(settings, "fedit", out=tmp_path, **inputs)
    rows = [{"text": f"{row['text']} again", "label": row["label"]} for row in ROWS[:60]]
    joined = result.join("late", Dataset.from_list(rows))
    assert joined["client"] == "late" and sum(joined["rows"].values()) == 60 and "deployed" in joined["test"]
    (prediction,) = result.predict("late", ["the film was great"])
    assert prediction["label"] in ("0", "1")
    with pytest.raises(fedpeft.UserError, match="of the one client that joins"):
        result.join("later", {"a": rows, "b": rows})
    with pytest.raises(fedpeft.UserError, match="give it again with its tokenizer"):
        fedpeft.join(result.folder, "later", rows)
    assert not (result.folder / "clients/later").exists()
