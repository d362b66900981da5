"""From a budget to resources: the choice is held against a dry step, and options are checked before the first one."""

import math

import pytest

from fedpeft.budgets.choose import Budget, choose
from fedpeft.budgets.fit import check_options, fit_budget
from fedpeft.budgets.measure import Measured, Workload
from fedpeft.budgets.probe_file import ProbeFile
from fedpeft.budgets.search_space import SearchSpace
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

WORKLOAD = Workload("a model", max_length=16, batch_size=4)
SPACE = SearchSpace(max_length=16, batch_size=4)


@pytest.fixture
def file(tmp_path, dry_steps) -> ProbeFile:
    """A file with a probe; `dry_steps` is empty again."""
    file = ProbeFile(tmp_path / "probes.json")
    file.get_or_measure(WORKLOAD)
    dry_steps.clear()
    return file


def fit_memory_mib(file: ProbeFile, memory_mib: float, space: SearchSpace = SPACE):
    return fit_budget(file, file.get(WORKLOAD), Budget(memory_mib), space, "client 'x'")


def make_heavier(monkeypatch, is_heavy) -> None:
    """Dry steps of some configurations take 9,000 MiB, whatever was predicted."""
    from fedpeft.budgets import probe_file

    measure = probe_file.measure

    def measure_heavier(workload, resources):
        measured = measure(workload, resources)
        return Measured(**vars(measured) | {"training_mib": 9000.0}) if is_heavy(resources) else measured

    monkeypatch.setattr(probe_file, "measure", measure_heavier)


def test_the_choice_is_verified_by_one_dry_step(file, dry_steps):
    fit = fit_memory_mib(file, 5000)
    assert fit.candidate.resources == ClientResources(8, (0, 1), 1.0, 4, False)
    assert dry_steps == [(WORKLOAD, fit.candidate.resources)]
    assert fit.measured.peak_mib == 600 + 4 * 16 * 3


def test_a_small_budget_gives_what_keeps_within_it(file, dry_steps):
    fit = fit_memory_mib(file, 650)
    own = fit.candidate.resources
    assert own.micro_batch < 4
    depth = 1 if own.checkpointing else len(own.layers)
    assert 600 + own.micro_batch * 16 * (1 + depth) == fit.measured.peak_mib <= 650
    assert len(dry_steps) == 1


def test_nothing_fits_is_one_line_that_names_the_subject(file, dry_steps):
    with pytest.raises(UserError, match="client 'x': 300 MiB is less than") as raised:
        fit_memory_mib(file, 300)
    assert "\n" not in str(raised.value) and not dry_steps


def test_a_choice_that_measures_too_much_gives_way_to_the_next_smaller_prediction(file, dry_steps, monkeypatch):
    make_heavier(monkeypatch, lambda resources: resources.micro_batch > 1)
    fit = fit_memory_mib(file, 5000)
    assert fit.candidate.resources.micro_batch == 1 and fit.measured.peak_mib <= 5000
    predictions = [file.get(WORKLOAD).memory.predict(fit.measured.shape, 16, r.micro_batch, r) for _, r in dry_steps]
    assert len(dry_steps) > 1 and predictions == sorted(predictions, reverse=True)


def test_the_next_choice_is_the_best_of_all_that_is_predicted_to_take_less(file, dry_steps, monkeypatch):
    probe = file.get(WORKLOAD)
    first = choose(probe.shape, probe.memory, probe.time, Budget(720), SPACE)
    make_heavier(monkeypatch, lambda resources: resources == first.resources)
    second = choose(probe.shape, probe.memory, probe.time, Budget(first.memory_mib - 1e-6), SPACE)
    assert first.memory_mib - second.memory_mib < 50  # close enough for a coarser step to miss it
    assert fit_memory_mib(file, 720).candidate == second
    assert [resources for _, resources in dry_steps] == [first.resources, second.resources]


def test_where_every_choice_measures_too_much_the_least_is_said(file, monkeypatch):
    make_heavier(monkeypatch, lambda resources: True)
    with pytest.raises(UserError, match="client 'x': 5000 MiB is less than the 9000 MiB measured"):
        fit_memory_mib(file, 5000, SearchSpace(16, 4, rank=1, layers=1))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"memory_mib": [900, math.nan]}, ["--memory-mib", "received nan"]),
        ({"memory_mib": [math.inf]}, ["--memory-mib", "received inf"]),
        ({"uplink_mib": -1.0}, ["--uplink-mib", "received -1.0"]),
        ({"seconds": 0.0, "examples": 5}, ["--seconds", "received 0.0"]),
        ({"seconds": 3.0}, ["--seconds 3", "--examples"]),
        ({"workload": Workload("a model", 16, 4, device="gpu")}, ["device", "'gpu'"]),
        ({"workload": Workload("a model", 16, 4, "float99")}, ["dtype", "'float99'"]),
        ({"out": "."}, ["--out", "cannot be written"]),
        ({"out": "file/probes.json"}, ["--out", "cannot be written"]),
    ],
)
def test_options_that_cannot_do_are_one_line_with_the_option_s_name(tmp_path, monkeypatch, changed, words):
    (tmp_path / "file").write_text("")
    options = {"workload": WORKLOAD, "memory_mib": [], "uplink_mib": None, "seconds": None, "examples": None}
    options |= {"out": "new/probes.json"} | changed
    with pytest.raises(UserError) as raised:
        check_options(**options | {"out": tmp_path / options["out"]})
    assert all(word in str(raised.value) for word in words) and "\n" not in str(raised.value)


def test_options_that_can_do_pass(tmp_path):
    check_options(WORKLOAD, [900.0], 0.5, 3.0, 100, tmp_path / "new/folder/probes.json")
    check_options(WORKLOAD, [], None, None, None, tmp_path / "probes.json")
