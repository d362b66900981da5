"""Whole runs on several devices: the results of one, and a device that is not there is a mistake before the start."""

import pytest
import torch
from runs.test_runner import StoppingCallback, contents, resume_after, settings

from fedpeft.errors import UserError
from fedpeft.runs.runner import start

CACHED = ["prefix_cache={limit_mib: 8}", "methods.fedit.adapter.layers=[1]"]


@pytest.mark.parametrize(("engine", "options"), [("local", CACHED), ("batched", ["max_clients=2"])])
def test_two_devices_change_no_bit_also_over_a_break(experiment_file, tmp_path, engine, options):
    overrides = [*options, f"engine={engine}", "training.participation=0.6"]
    start(settings(experiment_file, "fedit", overrides), tmp_path / "one", StoppingCallback())
    resumed = resume_after(experiment_file, tmp_path, "fedit", 1, [*overrides, "model.device=[cpu, cpu]"])
    assert contents(resumed) == contents(tmp_path / "one")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda:all", "[cuda:0, cuda:1]"])
def test_a_device_that_is_missing_is_one_line_before_anything_is_written(experiment_file, tmp_path, device):
    with pytest.raises(UserError, match="device: this torch sees no GPU, use cpu"):
        start(settings(experiment_file, "fedit", [f"model.device={device}"]), tmp_path / "run", StoppingCallback())
    assert not (tmp_path / "run").exists()


def test_each_device_is_looked_at_before_the_start(experiment_file, tmp_path):
    with pytest.raises(UserError, match=r"device: use cpu, cuda, cuda:1 \.\.\. Received: 'cpu:x'"):
        start(settings(experiment_file, "fedit", ["model.device=[cpu, 'cpu:x']"]), tmp_path / "r", StoppingCallback())


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="this torch does not see just one GPU")
def test_a_second_gpu_that_is_missing_is_one_line(experiment_file, tmp_path):
    with pytest.raises(UserError, match="this torch sees 1 GPUs"):
        start(settings(experiment_file, "fedit", ["model.device=[cuda:0, cuda:1]"]), tmp_path / "r", StoppingCallback())
