"""The boundary: what becomes of exceptions that no command expects, and of ctrl-C."""

import logging
import tempfile
from pathlib import Path

import pytest
from helpers.commands import refused

from fedpeft.cli import files, training
from fedpeft.cli.app import hint_on_interrupt
from fedpeft.config import load_experiment
from fedpeft.runs.fingerprint import Fingerprint
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.spec import RunSpec
from fedpeft.scenarios import get_overrides


@pytest.fixture
def raising(monkeypatch, tmp_path):
    """Makes `fedpeft validate` raise an exception; tracebacks go to a folder of their own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def make(error):
        def fail(path, overrides):
            raise error

        monkeypatch.setattr(files, "load", fail)

    return make


def test_a_bug_is_one_line_and_a_file_with_the_traceback(fedpeft, raising, tmp_path):
    raising(KeyError("\x1b[31m" + "x" * 10_000))
    done = fedpeft("validate", "e", cwd=tmp_path)
    refused(done, "a bug in fedpeft (KeyError: ", "please report it with", code=70)
    file = Path(done.stderr.split()[-1])
    assert file.parent == tmp_path and "Traceback" in file.read_text() and "x" * 10_000 in file.read_text()


def test_a_machine_that_refuses_is_no_bug(fedpeft, raising, tmp_path):
    raising(OSError(28, "No space left on device", "runs/x"))
    refused(fedpeft("validate", "e", cwd=tmp_path), "runs/x: No space left on device", str(tmp_path), code=74)


def test_where_no_traceback_can_be_written_the_line_is_there_all_the_same(fedpeft, raising, monkeypatch, tmp_path):
    raising(ValueError("odd"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    refused(fedpeft("validate", "e", cwd=tmp_path), "ValueError: odd", "FEDPEFT_LOG=debug", code=70)


def test_ctrl_c_names_the_folder_only_where_there_is_one(fedpeft, raising, tmp_path):
    raising(KeyboardInterrupt())
    done = fedpeft("validate", "e", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("is_written", [False, True])
def test_ctrl_c_in_a_run(fedpeft, raising, monkeypatch, experiment_file, tmp_path, is_written):
    def interrupt(spec, path, observer):
        if is_written:
            path.mkdir(parents=True)
            (path / "experiment.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("fedpeft.runs.runner.start", interrupt)
    done = fedpeft("run", experiment_file, "--method", "fedit", cwd=tmp_path)
    hint = "`fedpeft resume runs/tiny-fedit-0` goes on" if is_written else "nothing was written"
    assert (done.returncode, done.stderr) == (130, f"error: interrupted; {hint}\n")


def test_a_hint_is_for_ctrl_c_alone(tmp_path):
    with pytest.raises(ValueError, match="x"), hint_on_interrupt(tmp_path, "hint"):
        raise ValueError("x")


def test_an_unknown_level_of_logging(fedpeft, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDPEFT_LOG", "loud")
    refused(fedpeft("validate", "e", cwd=tmp_path), "FEDPEFT_LOG", "'LOUD'", "DEBUG")
    assert not list(tmp_path.iterdir())


def test_failures_of_clients_are_no_wall_of_text_on_the_screen(fedpeft, raising, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    fedpeft("validate", "e", cwd=tmp_path)
    logging.getLogger("fedpeft.engines.local").error("client failed", exc_info=ValueError("x"))
    assert capsys.readouterr().err == ""


def test_bare_fedpeft_shows_the_help_and_version_the_version(fedpeft, tmp_path):
    done = fedpeft(cwd=tmp_path)
    assert done.returncode == 0 and "Usage" in done.stdout and "compare" in done.stdout and not done.stderr
    done = fedpeft("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout[0].isdigit()


def test_a_scenario_list_is_checked_whole_before_the_first_trains(fedpeft, monkeypatch, experiment_file, tmp_path):
    monkeypatch.setattr(training, "_compare", lambda *arguments: pytest.fail("it trains"))
    command = ["compare", experiment_file, "--methods", "fedit", "--scenario", "all,four-levels"]
    refused(fedpeft(*command, cwd=tmp_path), "scenario four-levels: methods.fedit: ", "same adapter")
    command[-1] = "all,distinct"
    refused(fedpeft(*command, cwd=tmp_path), "scenario distinct: ")


def test_earlier_runs_of_every_scenario_are_checked_before_the_first_trains(
    fedpeft, monkeypatch, experiment_file, tmp_path
):
    out = tmp_path / "out"
    spec = RunSpec(load_experiment(experiment_file, get_overrides("all")), "fedit", 0, 5e-3, tmp_path)
    saw_nothing = Fingerprint(labels=[], clients={}, model=None, tokenizer=None)
    RunFolder.create(out / "all/fedit/lr0.005-seed0", spec.as_dict(), saw_nothing)
    monkeypatch.setattr(training, "_compare", lambda *arguments: pytest.fail("it trains"))
    command = ["compare", experiment_file, "--methods", "fedit", "--out", out, "--scenario", "uniform,all"]
    refused(fedpeft(*command, "--set", "training.rounds=2", cwd=tmp_path), "scenario all: ", "training.rounds")


def test_what_is_printed_has_no_control_characters(capsys):
    from fedpeft.cli.app import print_line

    print_line("a\x1b[2Jb\nsecond \u202eline", "dim")
    assert capsys.readouterr().out == "a\\x1b[2Jb\nsecond \\u202eline\n"
