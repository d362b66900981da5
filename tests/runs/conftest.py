"""The export of a run, for tests of what reads it."""

import pytest
from helpers.exports import Odd, export

from fedpeft.config import load_experiment


@pytest.fixture
def exported(experiment_file, tmp_path):
    """The run's folder, and the context of the run that has not trained."""
    experiment = load_experiment(experiment_file, [])
    return tmp_path, export(experiment, Odd(experiment.build_method("local", None).options), tmp_path)
