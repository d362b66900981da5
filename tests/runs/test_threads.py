"""Whoever starts a run from Python has torch's threads back after it, also where it fails."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.runs.spec import RunSpec


@pytest.mark.parametrize(
    ("module", "function", "step", "arguments"),
    [
        ("runner", "start", "build", lambda spec: (spec, Path("no-such-folder"), RunCallback())),
        ("runner", "resume", "RunFolder", lambda spec: (Path("no-such-folder"), RunCallback())),
        ("join", "join", "RunFolder", lambda spec: (Path("no-such-folder"), Path("rows.jsonl"), "new")),
        ("bench", "bench", "load_task", lambda spec: (spec.experiment, spec.label, spec.base, print)),
    ],
)
def test_threads_are_given_back(experiment_file, monkeypatch, module, function, step, arguments):
    def fail(*received, **named):
        torch.set_num_threads(1)  # as `assemble` does
        raise UserError("after that")

    spec = RunSpec(load_experiment(experiment_file), "fedit", 0, None, experiment_file.parent)
    module = import_module(f"fedpeft.runs.{module}")
    monkeypatch.setattr(module, step, fail)
    torch.set_num_threads(2)
    with pytest.raises(UserError, match="after that"):
        getattr(module, function)(*arguments(spec))
    assert torch.get_num_threads() == 2
