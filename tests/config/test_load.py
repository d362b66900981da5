import pytest
import yaml

from fedpeft.config import load_experiment
from fedpeft.errors import UserError


def edited(file, change):
    raw = yaml.safe_load(file.read_text())
    change(raw)
    file.write_text(yaml.safe_dump(raw))
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(trainig={}), "unknown key 'trainig', did you mean 'training'"),
        (lambda e: e["training"].update(round=3), "unknown key 'training.round', did you mean 'rounds'"),
        (lambda e: e["training"].update(rounds=0), "training.rounds: input should be greater than or equal to 1"),
        (lambda e: e["partition"].update(kind="natrual"), "received 'natrual'"),
        (lambda e: e.pop("task"), "missing key 'task'"),
        (lambda e: e["methods"].update(fedreff={}), "unknown method 'fedreff', did you mean 'fedreft'"),
        (lambda e: e["methods"].update(mine={"method": "fedit", "rank": 3}), "unknown key 'methods.mine.rank'"),
        (lambda e: e["methods"].update(fedit={"adapter": {"rr": 3}}), "unknown key 'methods.fedit.adapter.rr'"),
        (lambda e: e["methods"].update(fedit={"lr": [1e-3, -1]}), "methods.fedit.lr"),
        (lambda e: e.update(name="../x"), "name: letters"),
        (lambda e: e["methods"].update({"a/b": {"method": "fedit"}}), "methods: letters"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(experiment_file, change, said):
    with pytest.raises(UserError) as caught:
        load_experiment(edited(experiment_file, change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_reach_any_setting(experiment_file):
    overrides = ["training.rounds=7", "methods.fedit.adapter.r=2", "model.name=other"]
    experiment = load_experiment(experiment_file, overrides)
    assert experiment.training.rounds == 7
    assert experiment.build_method("fedit").options.adapter.r == 2
    assert experiment.model.name == "other"


@pytest.mark.parametrize("override", ["rounds", "=3", "name.x=3", "training.rounds=[1"])
def test_a_bad_override_is_one_line(experiment_file, override):
    with pytest.raises(UserError, match="--set"):
        load_experiment(experiment_file, [override])


def test_a_list_of_rates_is_for_compare(experiment_file):
    experiment = load_experiment(experiment_file, ["methods.fedit.lr=[0.1, 0.2]"])
    assert experiment.list_learning_rates("fedit") == [0.1, 0.2]
    with pytest.raises(UserError, match="is a list"):
        experiment.build_method("fedit")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", "\t"])
def test_a_file_that_is_no_experiment_is_one_line(tmp_path, text):
    file = tmp_path / "e.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"e\.yaml"):
        load_experiment(file)


def test_a_missing_file_and_one_that_is_not_text(tmp_path):
    with pytest.raises(UserError, match="no such experiment file"):
        load_experiment(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match="UTF-8"):
        load_experiment(tmp_path / "latin.yaml")


def test_decoders_read_longer_texts_unless_the_file_says_otherwise(experiment_file):
    plain = ["model={name: anything}"]
    assert load_experiment(experiment_file, plain).model.max_length == 64
    assert load_experiment(experiment_file, [*plain, "task.kind=generation"]).model.max_length == 512
    assert load_experiment(experiment_file, ["task.kind=generation"]).model.max_length == 16


def test_keys_of_earlier_versions_work_under_their_old_names(experiment_file):
    old = load_experiment(
        experiment_file, ["clients_at_once=3", "resources=[{share: 2, rank: 4}, {share: 1, rank: 2}]"]
    )
    new = load_experiment(
        experiment_file, ["max_clients=3", "resources=[{fraction: 2, rank: 4}, {fraction: 1, rank: 2}]"]
    )
    assert old.model_dump() == new.model_dump() and new.notes == ()
    assert [note.partition(": ")[2] for note in old.notes] == [
        "clients_at_once is now called max_clients; the old name still works",
        "resources.share is now called resources.fraction; the old name still works",
    ]


def test_a_key_under_both_names_is_refused(experiment_file):
    with pytest.raises(UserError, match="unknown key 'clients_at_once'"):
        load_experiment(experiment_file, ["clients_at_once=3", "max_clients=2"])


def test_an_unknown_engine_is_one_line(experiment_file):
    with pytest.raises(UserError, match=r"no engine 'batchd', did you mean 'batched'\?; known: batched, .*local"):
        load_experiment(experiment_file, ["engine=batchd"])


def test_a_relative_model_folder_starts_at_the_file(experiment_file, tmp_path, monkeypatch):
    (tmp_path / "models/tiny").mkdir(parents=True)
    monkeypatch.chdir("/")
    experiment = load_experiment(experiment_file, ["model.name=models/tiny"])
    assert experiment.model.name == str(tmp_path / "models/tiny")
    with pytest.raises(UserError, match=r"no such folder.*did you mean 'tiny'"):
        load_experiment(experiment_file, ["model.name=./models/tinny"])


def test_a_group_that_is_empty_in_the_file_can_be_set(experiment_file):
    assert load_experiment(experiment_file, ["training=", "training.rounds=7"]).training.rounds == 7
