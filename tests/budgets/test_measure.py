"""What a dry step in a fresh process answers, and what becomes of a process that fails."""

import json
import subprocess
import sys

import pytest
import torch

from fedpeft.budgets.measure import ANSWER, REQUEST, DryStep, Measured, Workload, measure, require_available
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

WORKLOAD = Workload("a model", max_length=16, batch_size=4)


@pytest.fixture
def figures(tiny_shape) -> Measured:
    return Measured(490.0, 590.0, 612.5, 0.012, 9000, 370, tiny_shape)


def answer_with(monkeypatch, stdout: str = "", stderr: str = "", code: int = 0) -> list[list[str]]:
    """The child process answers this; returns the commands that it is started with."""
    commands: list[list[str]] = []

    def run(command, **options):
        commands.append(command)
        assert options["env"]["OMP_NUM_THREADS"] == "1"
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_fresh_process_measures_the_configuration_asked_for(tiny_model):
    """The one real process of these tests: it takes as long as the imports of a run."""
    pytest.importorskip("fedpeft.acceleration.checkpointing")
    resources = ClientResources(4, (1,), 0.5, 2, True)
    measured = measure(Workload(str(tiny_model), 16, 4), resources, steps=2)
    assert 100 < measured.libraries_mib <= measured.training_mib <= measured.peak_mib < 4000
    assert measured.loading_mib <= measured.peak_mib
    assert measured.trained == measured.shape.count_trained(resources)
    assert measured.uplink_bytes <= measured.shape.estimate_uplink_bytes(resources)
    assert (measured.shape.blocks, measured.shape.width) == (2, 32)


def test_the_request_says_everything_and_the_answer_is_read_from_the_last_line(monkeypatch, figures):
    answer = f"a library talks\n{ANSWER.dump_json(figures).decode()}\n"
    commands = answer_with(monkeypatch, answer)
    resources = ClientResources(4, (1,), 0.5, 2, True)
    assert measure(WORKLOAD, resources, steps=2) == figures
    ((python, _, module, request),) = commands
    assert (python, module) == (sys.executable, "fedpeft.budgets.dry_step")
    assert REQUEST.validate_json(request) == DryStep(WORKLOAD, resources, 2)


def test_the_peak_is_the_higher_of_loading_and_training(figures):
    assert figures.peak_mib == 612.5
    heavy_to_load = Measured(**vars(figures) | {"loading_mib": 700.0})
    assert heavy_to_load.peak_mib == 700.0


def test_a_mistake_that_the_process_found_is_the_user_s(monkeypatch):
    answer_with(monkeypatch, json.dumps({"mistake": "no model 'nowhere'"}))
    with pytest.raises(UserError, match="no model 'nowhere'"):
        measure(WORKLOAD, ClientResources(4))


@pytest.mark.parametrize(
    ("stderr", "reason"), [("Traceback ...\nMemoryError: too much", "MemoryError: too much"), ("", "printed no error")]
)
def test_a_process_that_ends_otherwise_is_one_line(monkeypatch, stderr, reason):
    answer_with(monkeypatch, "half an answer", stderr, code=-9)
    with pytest.raises(UserError) as raised:
        measure(WORKLOAD, ClientResources(4))
    message = str(raised.value)
    for words in ("'a model'", "4 examples of 16 tokens", "ended with code -9", reason, "try fewer tokens"):
        assert words in message
    assert "\n" not in message


def test_what_this_machine_has_not_is_refused():
    require_available(WORKLOAD)
    require_available(Workload("a model", 16, 4, "bfloat16", "cpu"))
    for device in ("gpu", "meta", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(UserError, match=rf"device: .* Received: '{device}'"):
            require_available(Workload("a model", 16, 4, device=device))
    with pytest.raises(UserError, match=r"dtype: use one of .*float32.* Received: 'float99'"):
        require_available(Workload("a model", 16, 4, "float99"))
