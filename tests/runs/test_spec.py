"""What a run folder keeps of a run comes back as the same run."""

from pathlib import Path

from fedpeft.config import load_experiment
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.spec import RunSpec


def test_a_spec_comes_back_from_its_folder(experiment_file, tmp_path):
    spec = RunSpec(load_experiment(experiment_file), "fedreft", 3, 1e-3, tmp_path)
    folder = RunFolder.create(tmp_path / "run", spec.as_dict())
    read = RunSpec.read(folder)
    assert (read.label, read.seed, read.base) == ("fedreft", 3, Path(tmp_path).resolve())
    assert read.make_method().options == spec.make_method().options and read.make_method().options.lr == 1e-3
    assert read.as_dict() == spec.as_dict()


def test_methods_to_cross_evaluate_may_be_those_of_other_runs(experiment_file, tmp_path):
    """A run of one method keeps the whole list of the comparison, and is resumed all the same."""
    experiment = load_experiment(experiment_file, ["cross_evaluation=[local, fedreft]"])
    for label, crossed in (("fedreft", ["fedreft"]), ("fedit", [])):
        folder = RunFolder.create(tmp_path / label, RunSpec(experiment, label, 0, None, tmp_path).as_dict())
        assert RunSpec.read(folder).experiment.cross_evaluation == crossed
