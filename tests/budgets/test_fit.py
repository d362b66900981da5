"""Budgets on a real tiny model: dry steps in fresh processes, one probe for all tests; and the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedpeft.budgets.choose import Budget, SearchSpace
from fedpeft.budgets.fit import fit, fit_resources, get_or_measure
from fedpeft.budgets.measure import Measured, Workload, measure
from fedpeft.budgets.probe import ProbeFile
from fedpeft.budgets.resolve_budgets import resolve_budgets
from fedpeft.cli import main
from fedpeft.config import load_experiment
from fedpeft.environment import read_resident_mib, return_freed_memory
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources
from fedpeft.runs import budget as budgets
from fedpeft.runs import dry_step
from fedpeft.runs import probe as probes
from fedpeft.runs.runner import NullObserver, RunSpec, start

LENGTH, ROWS = 16, 4


@pytest.fixture(scope="module")
def real(tiny_model) -> Measured:
    """One dry step in a fresh process; it takes as long as the imports."""
    return measure(Workload(str(tiny_model), LENGTH, ROWS), ClientResources(4, (1,), 0.5, 2, True), steps=2)


@pytest.fixture
def pretended(monkeypatch, real):
    """Dry steps whose peak follows a rule, so that one real process is enough; returns what was asked for."""
    asked: list[ClientResources] = []

    def stand_in(workload: Workload, resources: ClientResources, steps: int = 3) -> Measured:
        asked.append(resources)
        rows = resources.micro_batch or workload.batch_size
        depth = 1 if resources.checkpointing else real.shape.depth(resources)
        peak = 600 + rows * workload.max_length * (1 + depth)
        seconds = 0.001 * workload.batch_size * workload.max_length * (2 + real.shape.depth(resources))
        uplink = real.shape.uplink_bytes(resources)
        return Measured(490.0, 590.0, 580.0, peak, seconds, uplink, real.shape.trained(resources), real.shape)

    monkeypatch.setattr(probes, "measure", stand_in)
    return asked


def test_a_dry_step_measures_what_was_asked(real, tiny_model):
    assert 100 < real.libraries_mib <= real.loaded_mib <= real.training_mib <= real.peak_mib < 4000
    assert real.trained == real.shape.trained(ClientResources(4, (1,), 0.5))
    assert real.uplink_bytes <= real.shape.uplink_bytes(ClientResources(4, (1,), 0.5))
    assert (real.shape.blocks, real.shape.width) == (2, 32)
    assert real.step_seconds > 0
    assert Measured.of(json.loads(json.dumps(real.as_dict()))) == real


def test_a_backbone_that_is_not_there_is_the_user_s_mistake(tmp_path, monkeypatch, capsys):
    """The child's answer, made in this process, and what the parent makes of it."""
    request: list[str] = []

    def in_this_process(command, **options):
        request[:] = command[2:]
        monkeypatch.setattr(sys, "argv", command[2:])
        dry_step.main()
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(subprocess, "run", in_this_process)
    with pytest.raises(UserError, match="nowhere"):
        measure(Workload(str(tmp_path / "nowhere"), LENGTH, ROWS), ClientResources(4))
    assert request[0] == "fedpeft.budgets.dry_step"
    failed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match="ended with code -9"):
        measure(Workload("a model", LENGTH, ROWS), ClientResources(4))


def allotted(cache: Path, memory_mib: float, **more) -> ClientResources:
    return fit_resources("x", Budget(memory_mib), "a model", LENGTH, ROWS, "float32", 2, cache, **more)


def test_the_allotment_is_probed_once_chosen_and_verified(tmp_path, pretended):
    cache = tmp_path / "new/probes.json"
    said: list[tuple[str, int, int]] = []
    whole = allotted(cache, 5000, progress=lambda *step: said.append(step))
    assert whole == ClientResources(8, (0, 1), 1.0, ROWS, False)
    assert [done for _, done, _ in said] == list(range(6))
    assert len(pretended) == 7 and pretended[-1] == whole  # six points, and the choice itself
    assert allotted(cache, 5000) == whole and len(pretended) == 7  # from the file
    small = allotted(cache, 650)
    assert len(pretended) == 8 and small.micro_batch < ROWS  # no second probe
    assert 600 + small.micro_batch * LENGTH * (1 + (1 if small.checkpointing else len(small.layers))) <= 650
    with pytest.raises(UserError, match="client 'x': 300 MiB is less than") as raised:
        allotted(cache, 300)
    assert "\n" not in str(raised.value)


def test_a_choice_that_measures_too_much_gives_way_to_a_smaller_one(tmp_path, pretended, monkeypatch):
    file = ProbeFile(tmp_path / "probes.json")
    found = get_or_measure(file, Workload("a model", LENGTH, ROWS))
    real_measure = probes.measure

    def heavier(workload, resources, steps=3):
        measured = real_measure(workload, resources, steps)
        heavy = resources.micro_batch and resources.micro_batch > 1
        return Measured(**vars(measured) | {"training_mib": 9000.0}) if heavy else measured

    monkeypatch.setattr(probes, "measure", heavier)
    chosen = fit(file, found, Budget(5000), SearchSpace(LENGTH, ROWS))
    assert chosen.need.resources.micro_batch == 1 and chosen.measured.peak_mib <= 5000
    monkeypatch.setattr(probes, "measure", lambda *a: Measured(**vars(real_measure(*a)) | {"training_mib": 9000.0}))
    fresh = ProbeFile(tmp_path / "other.json")
    fresh.put(found)
    with pytest.raises(UserError, match="5000 MiB is less than the 9000 MiB measured"):
        fit(fresh, found, Budget(5000), SearchSpace(LENGTH, ROWS, rank=1, layers=1))


def test_a_file_that_is_not_one_of_ours_is_refused(tmp_path):
    (tmp_path / "notes.json").write_text("not JSON")
    with pytest.raises(UserError, match=r"notes\.json is not a file of probes"):
        ProbeFile(tmp_path / "notes.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "gpu"], ["device", "'gpu'"]),
        (["--device", "meta"], ["device", "'meta'"]),
        (["--device", "cuda:99"], ["device", "'cuda:99'"]),
        (["--dtype", "float99"], ["dtype", "'float99'", "float32"]),
        (["--memory-mib", "900", "--memory-mib", "nan"], ["--memory-mib", "nan"]),
        (["--uplink-mib", "-1"], ["--uplink-mib", "-1.0"]),
        (["--seconds", "0", "--examples", "5"], ["--seconds", "0"]),
        (["--seconds", "3"], ["--examples"]),
        (["--out", "."], ["--out"]),
        (["--out", "file/probes.json"], ["--out"]),
    ],
)
def test_options_are_checked_before_the_first_dry_step(tmp_path, monkeypatch, capsys, options, words):
    def never(*given, **more):
        raise AssertionError("a dry step was made")

    monkeypatch.setattr(probes, "measure", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["fedpeft", "budget", "a model", *options])
    with pytest.raises(SystemExit) as left:
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and all(word in line for word in words)


def test_the_command_shows_what_was_measured_and_chosen(tmp_path, pretended, monkeypatch, capsys):
    cache = tmp_path / "probes.json"
    common = ["fedpeft", "budget", "a model", "--max-length", "16", "--batch-size", "4", "--out", str(cache)]
    monkeypatch.setattr(sys, "argv", [*common, "--memory-mib", "5000", "--memory-mib", "650"])
    main()
    said = capsys.readouterr().out
    shown = ("dry step 6 of 6", "2 blocks of width 32", "peak, all included", "checkpointing")
    for words in (*shown, "5000 MiB: rank 8", "650 MiB: rank 8"):
        assert words in said
    assert len(said.split("measured (each fitted)")[1].split("predictions are")[0].strip().splitlines()) == 7
    monkeypatch.setattr(sys, "argv", [*common, "--memory-mib", "10"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "10 MiB is less than" in capsys.readouterr().err
    assert ProbeFile(cache).get(Workload("a model", 16, 4)) is not None
    assert budgets.describe_probe(ProbeFile(cache).get(Workload("a model", 16, 4)))


def test_levels_with_budgets_become_levels_with_levers(tmp_path, pretended, experiment_file):
    overrides = [
        "resources=[{memory_mib: 5000, rank: 4}, {share: 2, memory_mib: 650}, {rank: 3}]",
        "model.max_length=16",
    ]
    experiment = load_experiment(experiment_file, [*overrides, "training.batch_size=4"])
    said: list[str] = []
    fitted = resolve_budgets(experiment, said.append, tmp_path / "probes.json")
    large, small, stated = fitted.resources
    assert (large.rank, large.layers, large.memory_mib) == (4, 2, None)
    assert small.share == 2 and small.micro_batch < ROWS
    assert stated == experiment.resources[2]
    assert any("resources[1]" in line and "measured" in line for line in said)
    result = start(RunSpec(fitted, "flexlora", 0, None, tmp_path), tmp_path / "run", NullObserver())
    assert result["quarantined"] == 0
    kept = (tmp_path / "run/experiment.yaml").read_text()
    assert "memory_mib: 5000" not in kept  # a resumed run depends on no measurement
    with pytest.raises(UserError, match=r"resources\[0\]: 300 MiB is less than"):
        poor = load_experiment(experiment_file, ["resources=[{memory_mib: 300}]", "model.max_length=16"])
        resolve_budgets(poor, said.append, tmp_path / "probes.json")
    with pytest.raises(UserError, match="not fitted"):
        start(RunSpec(experiment, "flexlora", 0, None, tmp_path), tmp_path / "unfitted", NullObserver())
    assert not (tmp_path / "unfitted").exists()


def test_freed_tensors_go_back_to_the_system():
    """Every second tensor is kept, so that a heap of glibc's own choosing could give nothing back."""
    if not return_freed_memory():
        pytest.skip("another C library than glibc")
    tensors = [torch.ones(256, 256) for _ in range(400)]  # 256 KiB each, 100 MiB together
    before = read_resident_mib()
    kept = tensors[::2]
    del tensors
    assert len(kept) == 200 and before - read_resident_mib() > 45
