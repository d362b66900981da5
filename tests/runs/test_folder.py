"""Run folders that something happened to: one line that names the file, and nothing is changed."""

import json
import shutil
import sys

import pytest

from fedpeft.cli import main
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.join import join
from fedpeft.runs.observer import NullObserver
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec


class Stops(NullObserver):
    def round_finished(self, record, validation):
        if record.round == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("made")}


@pytest.fixture
def run(experiment_file, tmp_path, made):
    """A copy of a finished or of a broken-off run of fedit; each is made once."""

    def copied(kind):
        if kind not in made:
            made[kind] = made["folder"] / kind
            settings = RunSpec(load_experiment(experiment_file, []), "fedit", 0, None, tmp_path)
            if kind == "finished":
                start(settings, made[kind], NullObserver())
            else:
                with pytest.raises(KeyboardInterrupt):
                    start(settings, made[kind], Stops())
        return shutil.copytree(made[kind], tmp_path / kind)

    return copied


def files(run):
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def refused(do, run, *words):
    before = files(run)
    with pytest.raises(UserError) as error:
        do()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert files(run) == before


def said(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedpeft", *map(str, arguments)])
    main()
    return capsys.readouterr().out


@pytest.mark.parametrize("content", [b'{"label": "fed', b"\xff\xfe", b"", b"null", b"[1, 2]", b"{}"])
def test_a_damaged_result_is_one_line(run, content):
    finished = run("finished")
    whole = (finished / "result.json").read_bytes()
    (finished / "result.json").write_bytes(content)
    refused(lambda: resume(finished, NullObserver()), finished, "result.json", "remove it", "fedpeft resume")
    refused(lambda: join(finished, finished / "metrics.jsonl", "late"), finished, "result.json")
    if content == b"":
        (finished / "result.json").unlink()  # as the line says
        for key, value in resume(finished, NullObserver()).items():
            assert key in ("seconds", "peak_memory_mib") or value == json.loads(whole)[key]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a: [1",
        "- a",
        "\x00",
        "experiment: 3\nbase: /",
        "base: /\nexperiment: {methods: {a: {}, b: {}}}",
        "name: mine\nmethods: {fedit: {}}",
    ],
)
def test_damaged_settings_are_one_line(run, content):
    finished = run("finished")
    (finished / "experiment.yaml").write_text(content)
    refused(lambda: resume(finished, NullObserver()), finished, "experiment.yaml", "start the run again")
    refused(lambda: RunFolder(finished / "clients").settings, finished, "no run at")


@pytest.mark.parametrize("log", ["metrics.jsonl", "timings.jsonl"])
@pytest.mark.parametrize("left", [None, 0, 100, -1])
def test_a_log_that_lost_lines_is_one_line_and_nothing_is_touched(run, log, left):
    broken = run("broken")
    (broken / ".result.json.1.tmp").write_text("half")
    content = (broken / log).read_bytes()
    (broken / log).unlink()
    if left is not None:
        (broken / log).write_bytes(content[:left])
    refused(lambda: resume(broken, NullObserver()), broken, log, f"at {len(content)} bytes", "put the file back")
    if left == -1:
        (broken / log).write_bytes(content)  # as the line says
        assert resume(broken, NullObserver())["rounds"] == 3


def test_a_log_that_is_missing_before_the_first_checkpoint_is_one_line(run):
    broken = run("broken")
    (broken / "checkpoint.safetensors").unlink()
    (broken / "metrics.jsonl").unlink()
    refused(lambda: resume(broken, NullObserver()), broken, "metrics.jsonl is missing")


@pytest.mark.parametrize("kept", [0, 7, 2000])
def test_a_cut_checkpoint_is_one_line(run, kept):
    broken = run("broken")
    whole = (broken / "checkpoint.safetensors").read_bytes()
    (broken / "checkpoint.safetensors").write_bytes(whole[:kept])
    refused(lambda: resume(broken, NullObserver()), broken, "checkpoint.safetensors is not a fedpeft checkpoint")


def test_ls_lists_an_unreadable_run_and_goes_on(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run("finished"), tmp_path / "runs/a")
    shutil.copytree(tmp_path / "runs/a", tmp_path / "runs/b")
    (tmp_path / "runs/a/result.json").write_text("{")
    first, second = said(monkeypatch, capsys, "ls", tmp_path / "runs").splitlines()
    assert "runs/a" in first and "unreadable" in first and "JSON" in first
    assert "runs/b" in second and "3 rounds" in second


def test_resume_names_adapters_only_where_they_are(run, monkeypatch, capsys):
    finished = run("finished")
    assert "adapters in" in said(monkeypatch, capsys, "resume", finished)
    shutil.rmtree(finished / "clients/site1")
    assert "adapters in" in (line := said(monkeypatch, capsys, "resume", finished)) and "none of site1" in line
    shutil.rmtree(finished / "clients")
    line = said(monkeypatch, capsys, "resume", finished)
    assert "written to" in line and "adapters in" not in line
