"""On a GPU the model alone lies there: what travels, what clients keep and what the server holds is on the CPU."""

import pytest
import torch
from runs.test_runner import StoppingCallback, settings

from fedpeft.federation.state_tree import flatten
from fedpeft.methods import list_built_in
from fedpeft.runs import runner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("engine", ["local", "batched"])
@pytest.mark.parametrize("label", list_built_in())
def test_a_run_on_a_gpu_goes_on_after_an_interrupt(experiment_file, tmp_path, monkeypatch, label, engine):
    contexts = []
    monkeypatch.setattr(runner, "build", lambda *a, make=runner.build: contexts.append(make(*a)) or contexts[-1])
    overrides = ["model.device=cuda", f"engine={engine}", "training.participation=0.6"]
    with pytest.raises(KeyboardInterrupt):
        runner.start(settings(experiment_file, label, overrides), tmp_path / "run", StoppingCallback(1))
    result = runner.resume(tmp_path / "run", StoppingCallback())
    assert result["quarantined"] == 0
    _, tensors = flatten([contexts[-1].federation.state, contexts[-1].engine.save(0)])
    assert {tensor.device.type for tensor in tensors.values()} <= {"cpu"}
