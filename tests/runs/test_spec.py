"""What a run folder keeps of a run comes back as the same run."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fedpeft.config import load_experiment
from fedpeft.config.experiment import TuningConfig
from fedpeft.errors import UserError
from fedpeft.runs.fingerprint import Fingerprint
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.spec import RunSpec

SAW_NOTHING = Fingerprint(labels=[], clients={}, model=None, tokenizer=None)


@pytest.fixture
def spec(experiment_file, tmp_path):
    return RunSpec(load_experiment(experiment_file), "fedreft", 3, 1e-3, tmp_path)


def test_a_spec_comes_back_from_its_folder(spec, tmp_path):
    folder = RunFolder.create(tmp_path / "run", spec.as_dict(), SAW_NOTHING)
    read = RunSpec.read(folder)
    assert (read.label, read.seed, read.base) == ("fedreft", 3, Path(tmp_path).resolve())
    assert read.make_method().options == spec.make_method().options and read.make_method().options.lr == 1e-3
    assert read.as_dict() == spec.as_dict()


def test_a_run_with_an_id_keeps_it_and_another_of_equal_settings_has_its_own(spec, tmp_path):
    named = spec.with_id()
    folder = RunFolder.create(tmp_path / "run", named.as_dict(), SAW_NOTHING)
    assert RunSpec.read(folder).id == named.id != spec.with_id().id
    assert not named.find_difference(spec)
    text = (tmp_path / "run" / "experiment.yaml").read_text()
    (tmp_path / "run" / "experiment.yaml").write_text(text.replace(named.id, "../../etc"))
    with pytest.raises(UserError, match=r"id: .* received '\.\./\.\./etc'"):
        RunSpec.read(folder)


def test_whether_to_cross_evaluate_is_kept_for_the_run_itself(experiment_file, tmp_path):
    experiment = load_experiment(experiment_file, ["cross_evaluation=[local, fedreft]"])
    for label, is_crossed in (("fedreft", True), ("fedit", False)):
        spec = RunSpec(experiment, label, 0, None, tmp_path)
        assert spec.is_crossed == is_crossed
        kept = spec.as_dict()
        assert kept["experiment"]["cross_evaluation"] is is_crossed
        kept["experiment"]["cross_evaluation"] = ["local", "fedreft"]  # as earlier versions wrote it
        assert RunSpec.parse(kept, "here").is_crossed == is_crossed


def test_the_first_setting_that_decides_results_and_differs_is_named(spec):
    def difference(**changes):
        return spec.find_difference(replace(spec, experiment=spec.experiment.model_copy(update=changes)))

    assert difference() == difference(workers=7) == difference(tuning=TuningConfig(trials=9)) == ""
    assert difference(max_clients=3) == "max_clients: 8 there, 3 here"
    assert spec.find_difference(replace(spec, seed=4)) == "seed: 3 there, 4 here"
    assert spec.find_difference(replace(spec, lr=0.5)) == "methods.fedreft.lr: 0.001 there, 0.5 here"


def test_a_setting_that_an_earlier_version_did_not_have_is_its_default(spec, tmp_path):
    kept = yaml.safe_load(yaml.safe_dump(spec.as_dict()))
    del kept["experiment"]["training"]["norm_limit"], kept["experiment"]["methods"]["fedreft"]["align"]
    assert RunSpec.parse(kept, "here").find_difference(spec) == ""


def test_a_damaged_setting_is_one_line_with_its_place(spec):
    kept = spec.as_dict()
    kept["experiment"]["training"]["rounds"] = "many"
    with pytest.raises(UserError, match=r"here: training\.rounds"):
        RunSpec.parse(kept, "here")


def test_a_run_of_an_earlier_version_deployed_what_clients_received(spec, tmp_path):
    kept = yaml.safe_load(yaml.safe_dump(spec.as_dict()))
    del kept["experiment"]["training"]["deploy"]
    read = RunSpec.parse(kept, "here")
    assert read.experiment.training.deploy == "received"
    assert read.find_difference(spec) == "training.deploy: received there, validation here"


def test_the_number_of_devices_decides_no_result(experiment_file):
    specs = [
        RunSpec(load_experiment(experiment_file, [f"model.device={device}"]), "fedit", 0, None, experiment_file.parent)
        for device in ("cpu", "[cpu, cpu]", "cuda:1")
    ]
    assert specs[0].find_difference(specs[1]) == ""
    assert specs[0].find_difference(specs[2]) == "model.device: cpu there, cuda here"
