"""The model of an experiment: found from the experiment file, long enough for its texts, and what is unused is told."""

import pytest

from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources
from fedpeft.runs.build import assemble, build, load_model
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.examples import ClientData, FederatedData
from fedpeft.tasks.load import load_task


@pytest.mark.parametrize(("max_length", "is_enough"), [(32, True), (33, False)])
def test_texts_as_long_as_the_positions_and_no_longer(max_length, is_enough, experiment_file):
    experiment = load_experiment(experiment_file, [f"model.max_length={max_length}"])
    if is_enough:
        load_model(experiment.model, experiment.task, 2, 0)
    else:
        with pytest.raises(UserError, match=r"model.max_length: this model has 32 positions.* Received: 33 tokens"):
            load_model(experiment.model, experiment.task, 2, 0)


def test_what_a_decoder_writes_needs_positions_too(experiment_file, monkeypatch, tiny):
    experiment = load_experiment(experiment_file, ["task.kind=generation", "model.max_length=40"])
    monkeypatch.setattr("fedpeft.runs.build.load_decoder", lambda *_, **__: (tiny("gpt2"), None))
    experiment.task.max_new_tokens = 24
    load_model(experiment.model, experiment.task, 0, 0)
    experiment.task.max_new_tokens = 25
    with pytest.raises(UserError, match=r"task.max_new_tokens: this model has 64 positions.* Received: 65 tokens"):
        load_model(experiment.model, experiment.task, 0, 0)


def test_a_relative_model_is_found_from_the_experiment_file(experiment_file, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(tiny_model)
    monkeypatch.chdir("/")
    experiment = load_experiment(experiment_file, ["model.name=models/tiny"])
    assert experiment.model.name == str(tmp_path / "models" / "tiny")
    with pytest.raises(UserError, match=r"no such folder: .*models/tniy, did you mean 'tiny'\?"):
        load_experiment(experiment_file, ["model.name=models/tniy"])


def test_a_run_of_an_earlier_version_keeps_a_relative_path(experiment_file, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "tiny").symlink_to(tiny_model)
    settings = RunSpec(load_experiment(experiment_file), "fedit", 0, None, tmp_path).as_dict()
    settings["experiment"]["model"]["name"] = "tiny"
    monkeypatch.chdir("/")

    class Folder:
        path = tmp_path

    Folder.settings = settings
    assert RunSpec.read(Folder).experiment.model.name == str(tmp_path / "tiny")
    settings["experiment"]["model"]["name"] = "owner/hub-id"
    assert RunSpec.read(Folder).experiment.model.name == "owner/hub-id"


def test_notes_tell_what_is_unused(experiment_file, tiny_decoder, tmp_path):
    experiment = load_experiment(experiment_file, [f"model.name={tiny_decoder}", "model.pooling=last"])
    context = build(RunSpec(experiment, "fedit", 0, None, tmp_path))
    context.engine.close()
    assert any("weights not used: lm_head.weight" in note for note in context.data.notes)


@pytest.mark.parametrize(
    "names",
    [["a/b"], [".."], ["."], [".hidden"], ["*"], ["x" * 300], ["a", "A"], ["é", "e\u0301"], ["a\x1b"], [""]],
)
def test_clients_of_a_program_have_ids_that_can_name_folders(names, experiment_file):
    """Those of files are checked where they are read."""
    experiment = load_experiment(experiment_file)
    data = FederatedData(tuple(ClientData(name, (), (), ()) for name in names), ("0", "1"), ())
    with pytest.raises(UserError) as error:
        assemble(experiment, experiment.build_method("fedit"), 0, data, (None, None))
    assert str(error.value).isprintable() and "client" in str(error.value)


def test_checkpointing_that_nobody_provides_is_refused_before_training(experiment_file, tmp_path):
    experiment = load_experiment(experiment_file)
    data = load_task(experiment.task, experiment.partition, 0, tmp_path)
    backbone = load_model(experiment.model, experiment.task, 2, 0)
    resources = {data.clients[1].id: ClientResources(checkpointing=True)}
    method = experiment.build_method("fedit")
    with pytest.raises(UserError, match="was given checkpointing, which is not installed"):
        assemble(experiment, method, 0, data, backbone, accelerations=(), resources=resources)
