"""An experiment whose levels state budgets becomes one whose levels state settings."""

import sys
from pathlib import Path

import pytest

from fedpeft.budgets.resolve_budgets import get_probe_path, resolve_budgets
from fedpeft.cli import main
from fedpeft.config import load_experiment
from fedpeft.errors import UserError

COMMON = ["model.max_length=16", "training.batch_size=4"]
LEVELS = "resources=[{memory_mib: 5000, rank: 4}, {fraction: 2, memory_mib: 650}, {rank: 3}]"


def test_budgets_become_settings_and_other_levels_stay(tmp_path, dry_steps, experiment_file):
    experiment = load_experiment(experiment_file, [LEVELS, *COMMON])
    reported: list[str] = []
    resolved = resolve_budgets(experiment, reported.append, tmp_path / "probes.json")
    large, small, stated = resolved.resources
    assert (large.rank, large.layers, large.micro_batch, large.memory_mib) == (4, 2, 4, None)
    assert small.fraction == 2 and small.micro_batch < 4 and small.rank == 8
    assert stated == experiment.resources[2]
    assert reported[0] == "dry step 1 of 6: the whole configuration"
    assert [line.split(",")[0] for line in reported[6:]] == ["resources[0]", "resources[1]"]
    assert all("measured" in line for line in reported[6:])
    assert experiment.resources[0].memory_mib == 5000  # the experiment itself stays


def test_measurements_are_kept(tmp_path, dry_steps, experiment_file):
    experiment = load_experiment(experiment_file, [LEVELS, *COMMON])
    first = resolve_budgets(experiment, print, tmp_path / "probes.json")
    count = len(dry_steps)
    assert resolve_budgets(experiment, print, tmp_path / "probes.json") == first
    assert len(dry_steps) == count == 8


def test_the_workload_is_the_experiment_s(tmp_path, dry_steps, experiment_file):
    own = ["model.pooling=cls", "model.dtype=bfloat16", "resources=[{memory_mib: 5000, layers: 1}]"]
    resolved = resolve_budgets(load_experiment(experiment_file, [*own, *COMMON]), print, tmp_path / "probes.json")
    workload, _ = dry_steps[0]
    assert (workload.pooling, workload.dtype, workload.max_length, workload.batch_size) == ("cls", "bfloat16", 16, 4)
    assert resolved.resources[0].layers == 1  # the most that it gets


def test_seconds_of_a_round_count_every_epoch(tmp_path, dry_steps, experiment_file):
    """The rule of the dry steps: 0.001 s x 4 x 16 x (2 + blocks passed backwards) a step; 20 steps of 4 in a round."""
    seconds = "resources=[{seconds_per_round: %g}]"
    rounds = ["partition.max_train=40", "training.local_epochs=2"]
    path = tmp_path / "probes.json"
    enough = load_experiment(experiment_file, [seconds % 1000, *rounds, *COMMON])
    assert resolve_budgets(enough, print, path).resources[0].layers == 2
    with pytest.raises(UserError, match=r"resources\[0\]: 0.1 s is less than .* \(20 steps\)"):
        resolve_budgets(load_experiment(experiment_file, [seconds % 0.1, *rounds, *COMMON]), print, path)
    with pytest.raises(UserError, match=r"resources\[0\]: a limit of 3 seconds per round needs"):
        resolve_budgets(load_experiment(experiment_file, [seconds % 3, *COMMON]), print, path)


def test_what_fits_nothing_is_named_by_its_level(tmp_path, dry_steps, experiment_file):
    poor = load_experiment(experiment_file, ["resources=[{memory_mib: 5000}, {memory_mib: 300}]", *COMMON])
    with pytest.raises(UserError, match=r"resources\[1\]: 300 MiB is less than"):
        resolve_budgets(poor, print, tmp_path / "probes.json")


def test_without_budgets_nothing_is_measured(tmp_path, dry_steps, experiment_file):
    experiment = load_experiment(experiment_file, ["resources=[{rank: 3}, {rank: 2}]"])
    assert resolve_budgets(experiment, print, tmp_path / "probes.json") is experiment
    assert not dry_steps and not (tmp_path / "probes.json").exists()


def test_autocast_is_not_what_a_dry_step_measures(tmp_path, dry_steps, experiment_file):
    experiment = load_experiment(experiment_file, ["resources=[{memory_mib: 900}]", "model.autocast=bfloat16"])
    with pytest.raises(UserError, match=r"without model\.autocast.*Received: bfloat16"):
        resolve_budgets(experiment, print, tmp_path / "probes.json")
    assert not dry_steps


def test_decoders_are_not_what_a_dry_step_measures(tmp_path, dry_steps, experiment_file):
    experiment = load_experiment(experiment_file, ["resources=[{memory_mib: 900}]"])
    task = experiment.task.model_copy(update={"kind": "generation"})
    with pytest.raises(UserError, match=r"measured for encoders.*Received: a task of kind generation"):
        resolve_budgets(experiment.model_copy(update={"task": task}), print, tmp_path / "probes.json")
    assert not dry_steps


def test_probes_are_kept_in_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_probe_path() == tmp_path / "fedpeft/probes.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert get_probe_path() == Path.home() / ".cache/fedpeft/probes.json"


def test_a_run_keeps_the_settings_and_not_the_budgets(tmp_path, dry_steps, experiment_file, monkeypatch):
    """A resumed run depends on no measurement."""
    pytest.importorskip("fedpeft.acceleration.checkpointing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sets = [part for override in (LEVELS, "training.rounds=1", *COMMON) for part in ("--set", override)]
    command = ["fedpeft", "run", str(experiment_file), "--method", "flexlora", "--out", str(tmp_path), *sets]
    monkeypatch.setattr(sys, "argv", command)
    main()
    kept = (tmp_path / "tiny-flexlora-0/experiment.yaml").read_text()
    assert "memory_mib: 5000" not in kept and "micro_batch: 4" in kept
    assert (tmp_path / "cache/fedpeft/probes.json").is_file()
