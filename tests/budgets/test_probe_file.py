"""The file of measurements: nothing is measured twice, and what another version wrote is no traceback."""

import json
import os

import pytest

from fedpeft.budgets import probe_file
from fedpeft.budgets.measure import Workload
from fedpeft.budgets.probe_file import ProbeFile
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

WORKLOAD = Workload("a model", max_length=16, batch_size=4)
OWN = ClientResources(8, (0, 1), 1.0, 2, True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new/probes.json"


def change(path, edit) -> None:
    """Applies `edit` to the entry of the file's one workload."""
    content = json.loads(path.read_text())
    (entry,) = content.values()
    edit(entry)
    path.write_text(json.dumps(content))


def test_a_probe_is_measured_once_and_read_back_as_it_was(path, dry_steps):
    measured = ProbeFile(path).get_or_measure(WORKLOAD)
    assert len(dry_steps) == 6
    assert ProbeFile(path).get_or_measure(WORKLOAD) == ProbeFile(path).get(WORKLOAD) == measured
    assert len(dry_steps) == 6


def test_a_dry_step_is_measured_once_and_read_back_as_it_was(path, dry_steps):
    file = ProbeFile(path)
    file.get_or_measure(WORKLOAD)
    measured = file.measure_once(WORKLOAD, OWN)
    assert dry_steps[6:] == [(WORKLOAD, OWN)]
    assert file.measure_once(WORKLOAD, OWN) == ProbeFile(path).measure_once(WORKLOAD, OWN) == measured
    assert len(dry_steps) == 7
    file.measure_once(WORKLOAD, ClientResources(8))
    assert len(dry_steps) == 8


def test_a_dry_step_needs_no_probe(path, dry_steps):
    assert ProbeFile(path).measure_once(WORKLOAD, OWN).shape.blocks == 2
    assert ProbeFile(path).get(WORKLOAD) is None and len(dry_steps) == 1


def test_another_workload_or_library_is_measured_anew_and_stands_beside(path, dry_steps, monkeypatch):
    file = ProbeFile(path)
    first = file.get_or_measure(WORKLOAD)
    assert file.get(Workload("a model", 16, 4, "bfloat16")) is None
    file.get_or_measure(Workload("another model", 16, 4))
    assert ProbeFile(path).get(WORKLOAD) == first and len(ProbeFile(path).content) == 2
    monkeypatch.setattr(probe_file, "version", lambda library: "99.0")
    assert ProbeFile(path).get(WORKLOAD) is None


def test_a_new_probe_forgets_the_dry_steps_before_it(path, dry_steps):
    file = ProbeFile(path)
    file.put(file.get_or_measure(WORKLOAD))
    file.measure_once(WORKLOAD, OWN)
    file.put(file.get(WORKLOAD))
    file.measure_once(WORKLOAD, OWN)
    assert len(dry_steps) == 8


def test_fields_that_an_earlier_version_kept_are_no_hindrance(path, dry_steps):
    file = ProbeFile(path)
    probe, measured = file.get_or_measure(WORKLOAD), file.measure_once(WORKLOAD, OWN)

    def add_old_fields(entry):
        (verified,) = entry["verified"].values()
        verified["loaded_mib"] = 580.0
        for shape in (entry["probe"]["shape"], verified["shape"]):
            shape |= {"kv_heads": 2, "vocabulary": 27}

    change(path, add_old_fields)
    assert ProbeFile(path).get_or_measure(WORKLOAD) == probe
    assert ProbeFile(path).measure_once(WORKLOAD, OWN) == measured
    assert len(dry_steps) == 7


@pytest.mark.parametrize(
    "edit",
    [
        lambda entry: entry["probe"].pop("memory"),
        lambda entry: entry["probe"]["shape"].pop("width"),
        lambda entry: entry["probe"].update(points="none"),
        lambda entry: entry.pop("probe"),
    ],
)
def test_a_probe_that_says_too_little_is_measured_anew(path, dry_steps, edit):
    probe = ProbeFile(path).get_or_measure(WORKLOAD)
    change(path, edit)
    assert ProbeFile(path).get_or_measure(WORKLOAD) == probe
    assert len(dry_steps) == 12
    assert ProbeFile(path).get(WORKLOAD) == probe


@pytest.mark.parametrize(
    "edit",
    [
        lambda entry: next(iter(entry["verified"].values())).pop("training_mib"),
        lambda entry: entry.update(verified=dict.fromkeys(entry["verified"])),
        lambda entry: entry.pop("verified"),
    ],
)
def test_a_dry_step_that_says_too_little_is_measured_anew(path, dry_steps, edit):
    measured = ProbeFile(path).measure_once(WORKLOAD, OWN)
    change(path, edit)
    assert ProbeFile(path).measure_once(WORKLOAD, OWN) == measured
    assert len(dry_steps) == 2


@pytest.mark.parametrize("text", ["not JSON", "[1, 2]", "7", '{"key": 3}', '{"key": {"verified": 7}}', "\x00"])
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, text):
    file = tmp_path / "notes.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"notes\.json is not a file of probes .*name another, or remove it") as raised:
        ProbeFile(file)
    assert "\n" not in str(raised.value)
    assert file.read_text() == text


def test_a_file_that_may_not_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    file = tmp_path / "probes.json"
    file.write_text("{}")

    def deny(path):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("pathlib.Path.read_bytes", deny)
    with pytest.raises(UserError, match=r"probes\.json cannot be read \(Permission denied\); name another"):
        ProbeFile(file)
