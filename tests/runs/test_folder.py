"""Run folders that something happened to: one line that names the file, and nothing is changed."""

import json
import os
import shutil
import sys

import pytest
import yaml

from fedpeft.callbacks import RunCallback
from fedpeft.cli import main
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import load_checkpoint, save_checkpoint
from fedpeft.runs.fingerprint import Fingerprint
from fedpeft.runs.folder import CHECKPOINT, RunFolder
from fedpeft.runs.join import join
from fedpeft.runs.lock import lock_folder
from fedpeft.runs.run_files import LOGS
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec


class Stops(RunCallback):
    def on_round_end(self, record, validation):
        if record.round == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("templates")}


@pytest.fixture
def run(experiment_file, tmp_path, templates):
    """A copy of a finished or of a broken-off run of fedit; each is made once."""

    def copied(kind):
        if kind not in templates:
            templates[kind] = templates["folder"] / kind
            data = templates["folder"] / "reviews.jsonl"
            experiment = load_experiment(experiment_file, [f"task.source={data}"])
            if not data.exists():
                shutil.copy(load_experiment(experiment_file).task.source, data)
            spec = RunSpec(experiment, "fedit", 0, None, tmp_path)
            if kind == "finished":
                start(spec, templates[kind], RunCallback())
            else:
                with pytest.raises(KeyboardInterrupt):
                    start(spec, templates[kind], Stops())
        return shutil.copytree(templates[kind], tmp_path / kind)

    return copied


def files(run):
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def require_refusal(do, run, *words):
    before = files(run)
    with pytest.raises(UserError) as error:
        do()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert files(run) == before


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedpeft", *map(str, arguments)])
    main()
    return capsys.readouterr().out


@pytest.mark.parametrize("content", [b'{"label": "fed', b"\xff\xfe", b"", b"null", b"[1, 2]", b'{"test": {}}'])
def test_a_damaged_result_is_one_line(run, content):
    finished = run("finished")
    whole = (finished / "result.json").read_bytes()
    (finished / "result.json").write_bytes(content)
    require_refusal(lambda: resume(finished, RunCallback()), finished, "result.json", "remove it", "fedpeft resume")
    require_refusal(lambda: join(finished, finished / "metrics.jsonl", "late"), finished, "result.json")
    if content == b"":
        (finished / "result.json").unlink()  # as the line says
        for key, value in resume(finished, RunCallback()).items():
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
        "base: &a [x]\nexperiment: {methods: {fedit: [*a, *a]}}",  # nested, such a file of 460 bytes takes gigabytes
    ],
)
def test_damaged_settings_are_one_line(run, content):
    finished = run("finished")
    (finished / "experiment.yaml").write_text(content)
    require_refusal(lambda: resume(finished, RunCallback()), finished, "experiment.yaml", "start the run again")
    require_refusal(lambda: RunFolder(finished / "clients").settings, finished, "no run at")


@pytest.mark.parametrize("log", ["metrics.jsonl", "timings.jsonl"])
@pytest.mark.parametrize("left", [None, 0, 100, -1])
def test_a_log_that_lost_lines_is_one_line_and_nothing_is_touched(run, log, left):
    broken = run("broken")
    (broken / ".result.json.1.tmp").write_text("half")
    content = (broken / log).read_bytes()
    (broken / log).unlink()
    if left is not None:
        (broken / log).write_bytes(content[:left])
    require_refusal(lambda: resume(broken, RunCallback()), broken, log, f"at {len(content)} bytes", "put the file back")
    if left == -1:
        (broken / log).write_bytes(content)  # as the line says
        assert resume(broken, RunCallback())["rounds"] == 3


def test_a_log_that_is_missing_before_the_first_checkpoint_is_one_line(run):
    broken = run("broken")
    (broken / "checkpoint.safetensors").unlink()
    (broken / "metrics.jsonl").unlink()
    require_refusal(lambda: resume(broken, RunCallback()), broken, "metrics.jsonl is missing")


@pytest.mark.parametrize("kept", [0, 7, 2000])
def test_a_cut_checkpoint_is_one_line(run, kept):
    broken = run("broken")
    whole = (broken / "checkpoint.safetensors").read_bytes()
    (broken / "checkpoint.safetensors").write_bytes(whole[:kept])
    require_refusal(lambda: resume(broken, RunCallback()), broken, "checkpoint.safetensors is not a fedpeft checkpoint")


def test_ls_lists_an_unreadable_run_and_goes_on(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run("finished"), tmp_path / "runs/a")
    shutil.copytree(tmp_path / "runs/a", tmp_path / "runs/b")
    (tmp_path / "runs/a/result.json").write_text("{")
    first, second = run_command(monkeypatch, capsys, "ls", tmp_path / "runs").splitlines()
    assert "runs/a" in first and "unreadable" in first and "JSON" in first
    assert "runs/b" in second and "3 rounds" in second


def test_resume_names_adapters_only_where_they_are(run, monkeypatch, capsys):
    finished = run("finished")
    assert "adapters in" in run_command(monkeypatch, capsys, "resume", finished)
    shutil.rmtree(finished / "clients/site1")
    assert "adapters in" in (line := run_command(monkeypatch, capsys, "resume", finished)) and "none of site1" in line
    shutil.rmtree(finished / "clients")
    line = run_command(monkeypatch, capsys, "resume", finished)
    assert "written to" in line and "adapters in" not in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", "3"),
        ("metric", "accuracy\x1b]0;owned\x07"),
        ("clients", ["../../elsewhere"]),
        ("clients", []),
        ("test", {"deployed": {"by_client": None}}),
        ("validation", {}),
        ("deployment", None),
        ("cross", {"a": {"b": 1.0}}),
    ],
)
def test_a_result_that_tables_cannot_show_is_one_line(run, key, value):
    finished = run("finished")
    result = json.loads((finished / "result.json").read_text()) | {key: value}
    (finished / "result.json").write_text(json.dumps(result))
    require_refusal(
        lambda: resume(finished, RunCallback()), finished, f"result.json is damaged ({key}", "fedpeft resume"
    )


def test_a_result_of_an_earlier_version_deployed_what_clients_received(run):
    finished = run("finished")
    result = json.loads((finished / "result.json").read_text())
    del result["deployment"]
    for key in ("test", "test_by_client"):
        scores = result[key]
        result[key] = {"personal": scores["received"], "trained": scores["trained"]}
    (finished / "result.json").write_text(json.dumps(result))
    read = RunFolder(finished).result
    for key in ("test", "test_by_client"):
        assert read[key]["deployed"] == read[key]["received"] == result[key]["personal"]
        assert list(read[key]) == ["deployed", "received", "trained"]


def change_checkpoint(run, **changes):
    """Rewrites a run's checkpoint, digest and all, as a stranger may."""
    save_checkpoint(run / CHECKPOINT, load_checkpoint(run / CHECKPOINT) | changes)


@pytest.mark.parametrize(
    "logs",
    [
        {"metrics.jsonl": 0, "timings.jsonl": 0, "../victim": 0},
        {"metrics.jsonl": 0, "../victim": 0},
        {"metrics.jsonl": 0},
        {"metrics.jsonl": -1, "timings.jsonl": 0},
        {"metrics.jsonl": 1.0, "timings.jsonl": 0},
        {"metrics.jsonl": True, "timings.jsonl": 0},
        ["metrics.jsonl"],
        {},
        None,
    ],
)
def test_a_checkpoint_names_the_two_logs_and_no_other_file(run, logs):
    broken = run("broken")
    (broken.parent / "victim").write_text("mine")
    change_checkpoint(broken, logs=logs)
    require_refusal(lambda: resume(broken, RunCallback()), broken, CHECKPOINT, "is no checkpoint of this run", "logs")
    assert (broken.parent / "victim").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"round": -1}, "round"),
        ({"round": "2"}, "round"),
        ({"seconds": {}}, "seconds"),
        ({"state": {"models": ()}}, "its state is of another method, it has models"),
        ({"state": {"tensors": {"a": 1}}}, "its state's tensors is damaged"),
        ({"state": {}}, "its state is not whole"),
        ({"clients": {"site9": {"trained": None, "kept": {}}}}, "it is of other clients, received ['site9']"),
        ({"clients": {"site0": {"trained": {"a": 3}, "kept": {}}}}, "clients.site0.trained"),
        ({"clients": {"site0": {}}}, "clients.site0.trained"),
        ({"fingerprint": "0"}, "it is of a run on other data or another model"),
        ({"settings": {}}, "settings"),
    ],
)
def test_a_checkpoint_that_holds_something_else_is_one_line(run, changes, problem):
    broken = run("broken")
    change_checkpoint(broken, **changes)
    require_refusal(
        lambda: resume(broken, RunCallback()), broken, "is no checkpoint of this run", problem, "start the run"
    )


@pytest.mark.parametrize(
    ("group", "key", "value", "difference"),
    [
        (None, "seed", 1, "seed: 1 there, 0 here"),
        ("fedit", "lr", 0.5, "methods.fedit.lr: 0.5 there, 0.005 here"),
        ("fedit", "method", "ffa_lora", "methods.fedit.method: ffa_lora there, fedit here"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(run, group, key, value, difference):
    broken = run("broken")
    settings = load_checkpoint(broken / CHECKPOINT)["settings"]
    (settings["experiment"]["methods"][group] if group else settings["experiment"])[key] = value
    if group and key == "method":
        settings["experiment"]["methods"][group] = {"method": value, "lr": 0.005}
    change_checkpoint(broken, settings=settings)
    require_refusal(lambda: resume(broken, RunCallback()), broken, CHECKPOINT, f"other settings ({difference})")


def test_a_checkpoint_of_an_earlier_version_goes_on_to_the_same_bits(run):
    """It had no digest, and named neither its run nor what it saw."""
    broken, whole = run("broken"), run("finished")
    (broken / "fingerprint.json").unlink()
    tree = load_checkpoint(broken / CHECKPOINT)
    del tree["settings"], tree["fingerprint"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedpeft.federation.checkpoint._digest", lambda text, tensors: "")
        save_checkpoint(broken / CHECKPOINT, tree)
    data = (broken / CHECKPOINT).read_bytes()
    assert data.count(b'"digest"') == 1
    (broken / CHECKPOINT).write_bytes(data.replace(b'"digest"', b'"ignore"'))
    resume(broken, RunCallback())
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert not (broken / "fingerprint.json").exists()


def test_any_flipped_bit_of_a_tensor_is_noticed(run):
    broken = run("broken")
    content = bytearray((broken / CHECKPOINT).read_bytes())
    content[-3] ^= 16
    (broken / CHECKPOINT).write_bytes(content)
    require_refusal(lambda: resume(broken, RunCallback()), broken, CHECKPOINT, "it is damaged: its digest is another")


@pytest.mark.parametrize("name", ["experiment.yaml", "fingerprint.json", *LOGS, CHECKPOINT, "clients", "clients/site0"])
def test_links_in_a_run_folder_are_refused_and_lead_nowhere(run, name):
    broken = run("broken")
    victim = broken.parent / "victim"
    if name.startswith("clients"):
        (victim / "adapter").mkdir(parents=True)
        (victim / "adapter/adapter_model.safetensors").write_text("mine")
        (broken / name).parent.mkdir(exist_ok=True)
    else:
        (broken / name).rename(victim)
    (broken / name).symlink_to(victim)
    before = files(victim) if victim.is_dir() else victim.read_bytes()
    with pytest.raises(UserError, match=f"{name} is a link"):
        resume(broken, RunCallback())
    assert (files(victim) if victim.is_dir() else victim.read_bytes()) == before
    assert (broken / name).is_symlink()


def test_the_folder_itself_may_be_reached_by_a_link(run):
    finished = run("finished")
    (finished.parent / "latest").symlink_to(finished)
    assert resume(finished.parent / "latest", RunCallback())["rounds"] == 3


def test_a_joining_client_is_written_into_no_link(run, tmp_path):
    finished = run("finished")
    (tmp_path / "victim").mkdir()
    (finished / "clients/.late.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"clients/\.late\.tmp is a link"):
        join(finished, finished / "metrics.jsonl", "late")
    assert os.listdir(tmp_path / "victim") == []


@pytest.mark.parametrize("kind", ["broken", "finished"])
def test_a_run_that_another_process_works_on_is_left_alone(run, kind):
    path = run(kind)
    with lock_folder(path):
        if kind == "broken":
            require_refusal(lambda: resume(path, RunCallback()), path, "is in use by process", "wait until that ends")
        else:
            resume(path, RunCallback())  # its result is read, and nothing written
            require_refusal(lambda: join(path, path / "metrics.jsonl", "late"), path, "is in use by process")


def change_rows(path, count):
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:count]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: change_rows(path, 199), "client 'site0' had"),
        (lambda path: path.write_text(path.read_text().replace("superb", "great")), "the examples of client"),
    ],
)
def test_a_run_does_not_go_on_when_its_data_changed(run, tmp_path, change, words):
    broken = run("broken")
    settings = yaml.safe_load((broken / "experiment.yaml").read_text())
    data = tmp_path / "reviews.jsonl"
    shutil.copy(settings["experiment"]["task"]["source"], data)
    settings["experiment"]["task"]["source"] = str(data)
    (broken / "experiment.yaml").write_text(yaml.safe_dump(settings))
    change_checkpoint(broken, settings=settings)
    change(data)
    require_refusal(
        lambda: resume(broken, RunCallback()), broken, "is a run on other data or another model", words, "put back"
    )


def test_a_stale_folder_that_ends_like_a_half_written_file_is_left(run):
    broken = run("broken")
    (broken / ".mine.tmp").mkdir()
    (broken / ".result.json.1.tmp").write_text("half")
    RunFolder(broken).cut_logs(None)
    assert (broken / ".mine.tmp").is_dir() and not (broken / ".result.json.1.tmp").exists()


def test_a_folder_that_cannot_be_created_or_read_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for name, words in (("x" * 300, "File name too long"), ("file/run", "Not a directory")):
        with pytest.raises(UserError, match=words):
            RunFolder.create(tmp_path / name, {}, None)
    with pytest.raises(UserError, match="File name too long"):
        resume(tmp_path / ("x" * 300), RunCallback())


@pytest.mark.parametrize("file", ["environment.json", "timings.jsonl", "experiment.yaml"])
def test_a_disk_that_is_full_at_the_start_leaves_nothing(tmp_path, monkeypatch, file):
    replace = os.replace

    def fail(source, target):
        if str(target).endswith(file):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    fingerprint = Fingerprint(labels=[], clients={}, model=None, tokenizer=None)
    with pytest.raises(UserError, match=f"{file}: No space left"), lock_folder(tmp_path / "run"):
        RunFolder.create(tmp_path / "run", {"base": "/", "experiment": {}}, fingerprint)
    assert os.listdir(tmp_path) == []


def test_a_log_that_cannot_be_written_is_one_line(run, monkeypatch):
    broken = run("broken")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device; the last checkpoint is intact"):
        RunFolder(broken).append("metrics.jsonl", [{"round": 3}])
