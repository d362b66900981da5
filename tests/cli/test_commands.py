"""The commands as a user meets them: what they print, their exit code, and no traceback for a mistake."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from helpers.commands import refused
from transformers import AutoTokenizer

from fedpeft.methods.fedit import FedIt

TIMEOUT = 120
UNLIKE = "resources=[{rank: 4}, {rank: 2}]"


def test_run_predict_ls_and_resume(fedpeft, experiment_file, tmp_path):
    done = fedpeft("run", experiment_file, "--method", "fedreft", "--set", "training.rounds=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "deployed, test accuracy" in done.stdout and "fedreft" in done.stdout
    run = tmp_path / "runs/tiny-fedreft-0"
    adapter = run / "clients/site1/adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["peft_type"] == "LOREFT"
    assert (adapter / "adapter_model.safetensors").exists()

    done = fedpeft("predict", run, "--client", "site1", "--text", "good fine film", "--text", "bad film", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] in "01" for line in done.stdout.splitlines()] == [True, True]
    refused(fedpeft("predict", run, "--client", "site9", "--text", "x", cwd=tmp_path), "'site9'", "site0, site1, site2")

    (tmp_path / "mine.csv").write_text("id,text\n1,good fine film\n2,bad film\n")
    out = fedpeft("predict", run, "--client", "site1", "--data", "mine.csv", "--out", "out.csv", cwd=tmp_path)
    assert out.stdout == "2 predictions written to out.csv\n", out.stderr
    answers = [line.split(",")[2] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert answers == [line.split()[0] for line in done.stdout.splitlines()]  # as with --text
    for arguments in (["--text", "a", "--data", "mine.csv"], []):
        refused(fedpeft("predict", run, "--client", "site1", *arguments, cwd=tmp_path), "one of the two")

    assert "2 rounds" in fedpeft("ls", cwd=tmp_path).stdout
    assert fedpeft("resume", run, cwd=tmp_path).returncode == 0
    refused(fedpeft("run", experiment_file, "--method", "fedreft", cwd=tmp_path), "already holds a run", "resume")


def test_an_exported_adapter_is_an_ordinary_peft_folder(fedpeft, experiment_file, tmp_path, tiny_model):
    assert fedpeft("run", experiment_file, "--method", "fedit", cwd=tmp_path).returncode == 0
    from peft import PeftModel

    from fedpeft.backbones import load_backbone
    from fedpeft.runs.predict import predict

    run = tmp_path / "runs/tiny-fedit-0"
    backbone, _ = load_backbone(str(tiny_model), num_labels=2, pooling="mean")
    model = PeftModel.from_pretrained(backbone, str(run / "clients/site0/adapter")).eval()
    inputs = AutoTokenizer.from_pretrained(tiny_model)("superb book", return_tensors="pt")
    share = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.softmax(-1)
    (found,) = predict(run, "site0", ["superb book"])
    assert found["label"] == str(int(share.argmax()))
    assert found["probability"] == pytest.approx(float(share.max()), abs=1e-6)


def test_join_gives_a_newcomer_an_adapter(fedpeft, experiment_file, tmp_path, tiny_data):
    assert fedpeft("run", experiment_file, "--method", "fedreft", cwd=tmp_path).returncode == 0
    run = tmp_path / "runs/tiny-fedreft-0"
    done = fedpeft("join", run, "--data", tiny_data, "--id", "late", "--epochs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "late joins fedreft" in done.stdout and "2 local epochs" in done.stdout and "mean of all" in done.stdout
    assert fedpeft("predict", run, "--client", "late", "--text", "good", cwd=tmp_path).returncode == 0
    refused(fedpeft("join", run, "--data", tiny_data, "--id", "late", cwd=tmp_path), "'late' already")
    refused(fedpeft("join", run, "--data", "none.csv", "--id", "other", cwd=tmp_path), "--data", "none.csv")


def test_compare_tunes_on_validation_and_goes_on_where_it_was(fedpeft, experiment_file, tmp_path):
    raw = yaml.safe_load(experiment_file.read_text())
    raw["methods"] = {"fedit": {"lr": [1e-4, 5e-3]}, "median": {"method": "fedreft"}}
    experiment_file.write_text(yaml.safe_dump(raw))
    done = fedpeft("compare", experiment_file, "--seeds", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs/tiny-compare"
    comparison = json.loads((out / "compare.json").read_text())
    tried = comparison["tuned_on_validation"]["fedit"]
    assert set(tried) == {"0.0001", "0.005"}
    assert comparison["rows"][0]["lr"] == float(max(tried, key=tried.get))
    assert [row["label"] for row in comparison["rows"]] == ["fedit", "median"]
    assert len(comparison["runs"]["fedit"]) == 2
    assert not list(out.rglob("checkpoint.safetensors"))  # finished runs of a comparison keep results only
    before = (out / "compare.json").read_text()
    assert fedpeft("compare", experiment_file, "--seeds", 2, cwd=tmp_path).returncode == 0
    assert json.loads((out / "compare.json").read_text())["runs"] == json.loads(before)["runs"]
    refused(
        fedpeft("compare", experiment_file, "--seeds", 2, "--set", "training.rounds=2", cwd=tmp_path),
        "other settings (training.rounds: 3 there, 2 here)",
    )


def test_a_rate_that_diverges_is_out_and_the_table_goes_on(fedpeft, experiment_file, tmp_path):
    rates = "methods.local.lr=[1e30, 5e-3]"
    done = fedpeft("compare", experiment_file, "--methods", "local", "--set", rates, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "local: the learning rate 1e+30 is out: round 1: 0 of 3 clients" in " ".join(done.stdout.split())
    comparison = json.loads((tmp_path / "out/compare.json").read_text())
    assert comparison["tuned_on_validation"]["local"]["1e+30"] is None and comparison["rows"][0]["lr"] == 5e-3
    done = fedpeft("compare", experiment_file, "--methods", "fedit", "--out", "out", cwd=tmp_path)
    assert "no longer holds local" in " ".join(done.stdout.split())
    one = ["--method", "local", "--set", "methods.local.lr=1e30"]
    refused(fedpeft("run", experiment_file, *one, cwd=tmp_path), "round 1: 0 of 3", "a lower learning rate may help")
    assert not list((tmp_path / "runs").iterdir())  # nothing to resume, and nothing in the way
    failing = "methods.local.lr=[1e30, 2e30]"
    refused(
        fedpeft("compare", experiment_file, "--methods", "local", "--set", failing, cwd=tmp_path),
        "methods.local.lr: training failed at every rate",
    )


def test_init_writes_a_file_that_is_valid(fedpeft, tmp_path):
    assert fedpeft("init", cwd=tmp_path).returncode == 0
    from fedpeft.config import load_experiment

    assert "fedreft" in load_experiment(tmp_path / "experiment.yaml").methods
    refused(fedpeft("init", cwd=tmp_path), "exists already")


def test_init_takes_data_of_ones_own(fedpeft, tmp_path, tiny_data, tiny_model):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/my rows.jsonl").write_text(tiny_data.read_text().replace('"site"', '"who: #1"'))
    done = fedpeft("init", "mine.yaml", "--data", "sub/my rows.jsonl", "--client", "who: #1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert (settings["name"], settings["task"]["source"]) == ("my-rows", "sub/my rows.jsonl")
    assert "# options by label" in (tmp_path / "mine.yaml").read_text().lower()  # the comments are still there
    done = fedpeft("validate", "mine.yaml", "--set", f"model.name={tiny_model}", cwd=tmp_path)
    assert done.returncode == 0 and "site2" in done.stdout, done.stderr
    refused(fedpeft("init", "b.yaml", "--data", "none.csv", cwd=tmp_path), "--data: no such file or folder: none.csv")
    assert not (tmp_path / "b.yaml").exists()


def test_validate_tries_the_model_where_asked(fedpeft, experiment_file, tmp_path):
    done = fedpeft("validate", experiment_file, "--model", "--set", "methods={fedit: {lr: 1e-3}}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "one client trained and scored once" in done.stdout and "its model trains: methods fedit" in done.stdout
    done = fedpeft("validate", experiment_file, "--model", "--set", "model.max_length=99", cwd=tmp_path)
    refused(done, "model.max_length")


def test_validate_shows_who_holds_what(fedpeft, experiment_file, tmp_path):
    done = fedpeft("validate", experiment_file, cwd=tmp_path)
    assert done.returncode == 0
    for client in ("site0", "site1", "site2"):
        assert client in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "none.yaml"], ["no such experiment file"]),
        (["run", "experiment.yaml", "--method", "fedreff"], ["fedreff", "did you mean 'fedreft'"]),
        (["run", "experiment.yaml", "--set", "training.round=3"], ["training.round", "did you mean 'rounds'"]),
        (["run", "experiment.yaml", "--set", "task.source=none.csv"], ["no such file", "none.csv"]),
        (["run", "experiment.yaml", "--set", "task.text=txt"], ["no column 'txt'", "did you mean 'text'"]),
        (["run", "experiment.yaml", "--set", "model.name=./nowhere"], ["nowhere"]),
        (["compare", "experiment.yaml", "--methods", "fedit,nope"], ["nope"]),
        (["run", "experiment.yaml", "--method", ""], ["unknown method ''"]),
        (["run", "experiment.yaml", "--seed", "-3"], ["-3"]),
        (["run", "experiment.yaml", "--set", "methods.fedit.lr=.inf"], ["methods.fedit.lr", "finite"]),
        (
            ["run", "experiment.yaml", "--set", "resources=[{fraction: .inf, rank: 4}]"],
            ["resources.0.fraction", "finite"],
        ),
        (["run", "experiment.yaml", "--set", "cross_evaluation=[fedti]"], ["cross_evaluation", "'fedti'", "'fedit'"]),
        (["validate", "experiment.yaml", "--set", "methods.fedreft.adapter.positions=f0"], ["positions", "'f0'"]),
        (
            ["compare", "experiment.yaml", "--methods", "local,fedit", "--set", UNLIKE],
            ["methods.fedit: ", "same adapter"],
        ),
        (["run", "experiment.yaml", "--method", "a[b]c[/INST]"], ["'a[b]c[/INST]'"]),  # said as it was written
        (["resume", "runs/none"], ["no run at"]),
        (["join", "runs/none", "--data", "experiment.yaml", "--id", "a"], ["no run at"]),
        (["ls", "none"], ["no runs under"]),
        (["predict", "runs/none", "--client", "a", "--text", "b"], ["no run at"]),
        (["runn"], ["no such command 'runn', did you mean 'run'?"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(fedpeft, experiment_file, tmp_path, arguments, words):
    refused(fedpeft(*arguments, cwd=tmp_path), *words)
    assert not (tmp_path / "runs").exists()  # nothing half-written


def test_an_interrupted_run_can_be_resumed(fedpeft, experiment_file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "fedpeft",
        "run",
        str(experiment_file),
        "--method",
        "fedit",
        "--set",
        "training.rounds=400",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore it
    )
    run = tmp_path / "runs/tiny-fedit-0"
    deadline = time.monotonic() + TIMEOUT
    while not (run / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert "Traceback" not in said and "interrupted" in said
    assert "resume" in fedpeft("ls", cwd=tmp_path).stdout


def test_a_client_that_fails_in_every_round_stands_in_the_table_and_its_traceback_in_a_file(
    fedpeft, experiment_file, tmp_path, monkeypatch
):
    train = FedIt.train

    def fail_at_one(self, model, message, client, *arguments):
        if message.client == "site1":
            raise NameError("name 'x' is not defined")
        return train(self, model, message, client, *arguments)

    monkeypatch.setattr(FedIt, "train", fail_at_one)
    done = fedpeft("run", experiment_file, "--method", "fedit", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr
    shown = " ".join(done.stdout.split())
    assert shown.count("client site1 is left out: NameError: name 'x' is not defined") == 1  # of three rounds
    assert "3/9" in shown and "client site1 left out of 3 of 3 rounds: NameError" in shown
    run = tmp_path / "runs/tiny-fedit-0"
    assert (run / "failures.log").read_text().count("Traceback") == 3
    result = json.loads((run / "result.json").read_text())
    assert result["left_out"] == {"site1": {"rounds": [1, 2, 3], "reason": "NameError: name 'x' is not defined"}}
    assert (result["quarantined"], result["client_rounds"]) == (3, 9)


def test_a_comparison_that_is_kept_can_be_shown_predicted_with_and_begun_again(fedpeft, experiment_file, tmp_path):
    command = ["compare", experiment_file, "--methods", "fedit,local", "--set", "training.rounds=1"]
    done = fedpeft(*command, "--keep", cwd=tmp_path)
    assert done.returncode == 0 and "adapters in runs/tiny-compare/METHOD/RUN/clients" in done.stdout
    (run,) = (tmp_path / "runs/tiny-compare/fedit").iterdir()
    assert fedpeft("predict", run, "--client", "site1", "--text", "good film", cwd=tmp_path).returncode == 0
    assert (run / "checkpoint.safetensors").exists()  # which `join` goes on from

    shown = fedpeft("show", "runs/tiny-compare", cwd=tmp_path).stdout
    for words in ("tiny: deployed, test accuracy", "cost", "by client, test", "site2"):
        assert words in shown
    assert "site2" not in fedpeft("show", run, cwd=tmp_path).stderr
    table = fedpeft("table", "runs/tiny-compare", "--format", "csv", cwd=tmp_path)
    assert [line.split(",")[0] for line in table.stdout.splitlines()] == ["method", "fedit", "local"]
    done = fedpeft("table", run, "--out", "t.md", cwd=tmp_path)
    assert done.stdout == "written to t.md\n" and (tmp_path / "t.md").read_text().startswith("| method |")
    refused(fedpeft("table", run, "--out", "none/t.md", cwd=tmp_path), "no such folder: none")

    refused(fedpeft(*command, "--fresh", "--methods", "nope", cwd=tmp_path), "unknown method 'nope'")
    assert run.exists()  # nothing is removed before the command is in order
    done = fedpeft(*command, "--fresh", "--set", "seed=1", cwd=tmp_path)
    assert "--fresh: 2 runs removed from runs/tiny-compare" in done.stdout and not run.exists()
    done = fedpeft(*command, "--keep", "--set", "seed=1", cwd=tmp_path)
    assert "was finished without adapters, which cannot be made afterwards; --fresh can" in done.stdout
