"""`fedpeft budget` as a user meets it."""

import sys

import pytest

from fedpeft.budgets.measure import Workload
from fedpeft.budgets.probe_file import ProbeFile
from fedpeft.cli import main


@pytest.fixture
def budget(tmp_path, monkeypatch, capsys):
    """budget(*options) -> exit code, standard output, standard error; in a folder of its own."""

    def call(*options):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["fedpeft", "budget", "a model", *options])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_what_was_measured_and_chosen_is_shown_and_kept(tmp_path, dry_steps, budget):
    common = ["--max-length", "16", "--batch-size", "4", "--out", "probes.json"]
    code, shown, _ = budget(*common, "--memory-mib", "5000", "--memory-mib", "650")
    assert code == 0
    words = ("dry step 6 of 6", "2 blocks of width 32", "peak, all included", "checkpointing")
    for part in (*words, "5000 MiB: rank 8", "650 MiB: rank 8", "written to probes.json"):
        assert part in shown
    assert len(shown.split("measured (each fitted)")[1].split("predictions are")[0].strip().splitlines()) == 7
    assert ProbeFile(tmp_path / "probes.json").get(Workload("a model", 16, 4)) is not None
    code, _, error = budget(*common, "--memory-mib", "10")
    assert code == 2 and "10 MiB is less than" in error


def test_masks_are_chosen_only_where_the_method_can(dry_steps, budget):
    """Half of the rows of B at rank 8 take less uplink than all of them, and train more than rank 4."""
    common = ["--max-length", "16", "--batch-size", "4", "--memory-mib", "5000", "--uplink-mib", "0.028"]
    assert "0.028 MiB up a round: rank 4, top 2 of 2 layers, micro-batch 4:" in budget(*common)[1]
    assert "0.028 MiB up a round: rank 8, top 2 of 2 layers, density 0.5," in budget(*common, "--mask")[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda:99"], ["device", "'cuda:99'"]),
        (["--dtype", "float99"], ["dtype", "'float99'", "float32"]),
        (["--memory-mib", "900", "--memory-mib", "nan"], ["--memory-mib", "nan"]),
        (["--memory-mib", "much"], ["--memory-mib", "much"]),
        (["--memory-mib", "1e308"], ["--memory-mib", "1e+308", "at most 1,000,000,000"]),
        (["--uplink-mib", "-1"], ["--uplink-mib", "above 0", "-1"]),
        (["--rank", "1000000000"], ["--rank", "1000000000", "65536"]),
        (["--max-length", "1000000000"], ["--max-length", "1000000000", "1000000"]),
        (["--batch-size", "1000000000"], ["--batch-size", "1000000000", "65536"]),
        (["--seconds", "3"], ["--examples"]),
        (["--out", "."], ["--out"]),
    ],
)
def test_a_mistake_is_one_line_before_the_first_dry_step(dry_steps, budget, options, words):
    code, _, error = budget(*options)
    (line,) = error.strip().splitlines()
    assert code == 2 and all(word in line for word in words)
    assert not dry_steps


def test_a_file_of_something_else_is_one_line(tmp_path, dry_steps, budget):
    (tmp_path / "notes.json").write_text("not JSON")
    code, _, error = budget("--out", "notes.json")
    assert code == 2 and "notes.json is not a file of probes" in error and not dry_steps
