"""The model of an experiment: found from the experiment file, long enough for its texts, and what is unused is told."""

import pytest
import torch

from fedpeft.config import ModelConfig, load_experiment
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources
from fedpeft.runs import build as module
from fedpeft.runs.build import POOLED, assemble, build, default_workers, load_model, require_startable
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


@pytest.fixture
def make_spec(experiment_file, tmp_path):
    return lambda label, *overrides: RunSpec(
        load_experiment(experiment_file, list(overrides)), label, 0, None, tmp_path
    )


def test_every_client_trains_and_is_evaluated_with_its_own_examples(make_spec):
    context = build(make_spec("fedit", "workers=1"))
    assert [spec.id for spec in context.federation.specs] == ["site0", "site1", "site2"]
    assert context.federation.evaluation_clients == context.federation.specs == context.engine.clients()
    for client, data in zip(context.clients, context.data.clients, strict=True):
        assert client.spec.examples == len(client.splits["train"]) == len(data.train)
    assert all(template is context.templates["site0"] for template in context.templates.values())
    context.engine.close()


def test_a_pooled_method_trains_on_everything_and_every_client_is_evaluated(make_spec):
    context = build(make_spec("centralised"))
    (pooled,) = context.federation.specs
    assert (pooled.id, pooled.examples) == (POOLED, sum(len(client.train) for client in context.data.clients))
    assert [spec.id for spec in context.federation.evaluation_clients] == ["site0", "site1", "site2"]
    context.engine.close()


def test_rows_that_are_cut_are_told_with_their_number(make_spec):
    assert build(make_spec("fedit")).data.notes == ()
    (note,) = build(make_spec("fedit", "model.max_length=8")).data.notes
    cut, of, total = note.split()[:3]
    assert of == "of" and 0 < int(cut) < int(total) <= 240 and "model.max_length=8" in note


def test_the_head_that_everyone_starts_from_is_drawn_by_the_seed(make_spec):
    experiment = make_spec("fedit").experiment
    heads = [load_model(experiment.model, experiment.task, 2, seed)[0].classifier.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_workers_are_cores_and_one_where_they_would_share_a_gpus_memory(monkeypatch):
    monkeypatch.setattr(module, "count_usable_cores", lambda: 7)
    model = {"name": "any"}
    assert default_workers(ModelConfig(**model)) == 7
    assert (
        default_workers(ModelConfig(**model, device="cuda:1"))
        == default_workers(ModelConfig(**model, device_map="auto"))
        == 1
    )


def test_of_several_devices_each_has_a_worker():
    assert default_workers(ModelConfig(name="any", device=["cpu", "cpu", "cpu"])) == 3


def test_a_method_that_cannot_start_says_so_before_it_is_built(make_spec, tmp_path):
    levels = "resources=[{rank: 4}, {rank: 2, layers: 1}]"
    spec = make_spec("fedit", levels)
    experiment = spec.experiment
    data = load_task(experiment.task, experiment.partition, 0, tmp_path)
    backbone, _ = load_model(experiment.model, experiment.task, 2, 0)
    with pytest.raises(UserError, match="levels: lowest"):
        require_startable(experiment, spec.make_method(), data, backbone)
    require_startable(experiment, make_spec("hetlora", levels).make_method(), data, backbone)
