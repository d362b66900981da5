"""Newcomers: what each method gives them, that the run stays as it was, and what is refused, nothing written."""

import json
import random
import shutil

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.federation.checkpoint import load_checkpoint, save_checkpoint
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Reply
from fedpeft.methods.fedhft import FedHft, FedHftState
from fedpeft.methods.fedreft import FedReftState
from fedpeft.runs import join as joining
from fedpeft.runs.join import join
from fedpeft.runs.predict import predict
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec

MODELS = {"received", "trained", "answer", "deployed", "alone"}


@pytest.fixture(scope="module")
def rows_file(tiny_data, tmp_path_factory):
    """Sixty rows of the task, in other words' order: the newcomer's own. No column of sites."""
    draw, rows = random.Random(9), []
    for line in tiny_data.read_text().splitlines()[:60]:
        row = json.loads(line)
        words = row["text"].split()
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": row["label"]})
    file = tmp_path_factory.mktemp("newcomer") / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("finished")}


@pytest.fixture
def trained(experiment_file, tmp_path, finished):
    """A finished run of a method, a copy of its own for each test; like runs are made once."""

    def run(label, *overrides):
        key = (label, *overrides)
        if key not in finished:
            finished[key] = finished["folder"] / str(len(finished))
            experiment = load_experiment(experiment_file, list(overrides))
            start(RunSpec(experiment, label, 0, None, tmp_path), finished[key], RunCallback())
        return shutil.copytree(finished[key], tmp_path / "run")

    return run


def files(run):
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def exported(run, client):
    return load_file(run / "clients" / client / "adapter/adapter_model.safetensors")


@pytest.mark.parametrize(
    "label",
    ["fedreft", "fedhft", "fedit", "hetlora", "flora", "fedsa_lora", "fed_sb", "fedalt", "fedlease", "feddpa_t"],
)
def test_a_newcomer_gets_an_adapter_and_the_run_stays_as_it_was(trained, rows_file, label):
    run = trained(label)
    before = files(run)
    joined = join(run, rows_file, "late")
    after = files(run)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"late"}
    assert joined["test"].keys() >= MODELS and ("mean" in joined["test"]) == (label == "fedreft")
    assert joined["rows"] == {"train": 39, "validation": 9, "test": 12}
    assert joined["test"]["deployed"]["examples"] == 12
    assert joined["test"]["deployed"]["accuracy"] > 0.6  # 12 rows of a task that the federation has learned
    assert [prediction["label"] in "01" for prediction in predict(run, "late", ["a good film"])] == [True]
    with pytest.raises(UserError, match="a client 'late' already"):
        join(run, rows_file, "late")
    if label == "fedhft":
        shutil.rmtree(run / "clients/late")
        join(run, rows_file, "late")
        assert files(run) == after  # the same once more, to the bit


def test_under_fedit_it_is_the_global_model(trained, rows_file):
    run = trained("fedit", "training.deploy=received")
    joined = join(run, rows_file, "late", epochs=2)
    own, other = exported(run, "late"), exported(run, "site0")
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    assert joined["test"]["received"] == joined["test"]["deployed"] != joined["test"]["trained"]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_under_fedreft_it_is_mixed_with_the_median_of_everyone(trained, rows_file, weight):
    run = trained(
        "fedreft", "training.deploy=received", "methods.fedreft.mixing=fixed", f"methods.fedreft.mixing_weight={weight}"
    )
    joined = join(run, rows_file, "late")
    state = FedReftState(**load_checkpoint(run / "checkpoint.safetensors")["state"])
    same = "received" if weight else "trained"
    assert joined["test"]["deployed"] == pytest.approx(joined["test"][same], abs=1e-5)
    name = next(name for name in state.mean if name.endswith("reft_b"))
    points = torch.stack([phi[name] for phi in state.phis.values()]).double()  # (clients, ...)
    factor = next(t for n, t in exported(run, "late").items() if n.endswith(name.split("model.")[-1]))
    inside = (factor >= points.min(0).values - 1e-6) & (factor <= points.max(0).values + 1e-6)
    assert bool(inside.all()) == bool(weight)  # a median lies between the others; what was trained on need not


def test_more_epochs_are_more_steps_for_the_newcomer_and_for_training_alone(trained, rows_file):
    run = trained("fedreft")
    once = join(run, rows_file, "late")
    shutil.rmtree(run / "clients/late")
    thrice = join(run, rows_file, "late", epochs=3)
    for which in ("trained", "alone"):
        assert once["test"][which]["loss"] != thrice["test"][which]["loss"]
    assert once["test"]["mean"] == thrice["test"]["mean"]


@pytest.mark.parametrize(("clusters", "feature"), [(2, "head"), ("auto", "update")])
def test_under_fedhft_only_the_newcomers_responsibility_is_new(trained, rows_file, monkeypatch, clusters, feature):
    run = trained("fedhft", f"methods.fedhft.clusters={clusters}", f"methods.fedhft.feature={feature}")
    seen = {}
    real = joining._train_and_score

    def watched(context, label):
        scores = real(context, label)
        seen["after"], seen["method"] = context.federation.state, context.federation.method
        return scores

    monkeypatch.setattr(joining, "_train_and_score", watched)
    join(run, rows_file, "late")
    before, after = FedHftState(**load_checkpoint(run / "checkpoint.safetensors")["state"]), seen["after"]
    assert before.shares.keys() | {"late"} == after.shares.keys()
    assert float(after.shares["late"].sum()) == pytest.approx(1)
    for client in before.modules:
        spec = ClientSpec(client, 1)
        old, new = seen["method"].send(before, spec), seen["method"].send(after, spec)
        assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert after.modules["late"] == after.modules["site0"]


def test_a_newcomer_like_a_known_client_joins_its_cluster():
    """Two clusters planted into a state; a reply with the features of one of their clients."""
    head = {"m.classifier.weight": torch.zeros(2, 8)}
    draw = torch.Generator().manual_seed(0)
    features = {f"site{i}": (i % 2) + 0.01 * torch.randn(16, generator=draw) for i in range(6)}
    shares = {c: torch.tensor([p, 1 - p]).double() for c, p in zip(features, [0.02, 0.98] * 3, strict=True)}
    state = FedHftState({client: {} for client in features}, (head, head), ({}, {}), 0, shares, features)
    method = FedHft(FedHft.Options())
    for value, expected in ((0.0, 1), (1.0, 0)):
        reply = Reply("late", 4, {name: torch.full_like(t, value) for name, t in head.items()}, {"examples": 5})
        admitted = method.add_client(state, reply)
        assert int(admitted.shares["late"].argmax()) == expected and float(admitted.shares["late"].max()) > 0.9
        assert all(torch.equal(admitted.shares[client], share) for client, share in shares.items())


@pytest.mark.parametrize(
    ("label", "levels", "rank"),
    [
        ("fedit", "[{rank: 3, layers: 1}]", 3),  # all alike: the newcomer too
        ("fedit", "[{rank: 3}, {rank: 2}, {rank: 1}]", 1),  # all at the lowest: the newcomer too
        ("hetlora", "[{rank: 3, layers: 1}, {rank: 2, layers: 1}, {rank: 1, layers: 1}]", 8),  # the method's own
        ("flora", "[{rank: 3, layers: 1}, {rank: 2}]", None),
        ("fedhft", "[{rank: 3, layers: 1, density: 0.5}, {rank: 2, density: 0.3}]", None),
    ],
)
def test_a_newcomer_fits_a_run_of_unlike_resources(trained, rows_file, label, levels, rank):
    lowest = ["methods.fedit.levels=lowest"] * (label == "fedit")
    run = trained(label, f"resources={levels}", *lowest)
    joined = join(run, rows_file, "late")
    assert joined["test"]["deployed"]["examples"] == 12
    if rank and joined["test"]["deployed"] == joined["test"]["trained"]:
        assert PeftConfig.from_pretrained(str(run / "clients/late/adapter")).r == rank


def test_rows_are_split_as_the_runs_are_and_a_text_stands_on_one_side(trained, rows_file, tmp_path, monkeypatch):
    run = trained("fedit", "partition.test=0.4", "partition.max_train=10")
    twice = tmp_path / "twice.jsonl"
    twice.write_text(rows_file.read_text() + "\n" + rows_file.read_text())
    seen = {}
    real = joining.load_client

    def watched(*given):
        seen["rows"] = real(*given)
        return seen["rows"]

    monkeypatch.setattr(joining, "load_client", watched)
    joined = join(run, twice, "late")
    assert joined["rows"]["train"] == 10 and joined["rows"]["test"] == 48
    sides = [{example.text for example in getattr(seen["rows"], split)} for split in ("train", "validation", "test")]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    folder = tmp_path / "own"
    folder.mkdir()
    lines = rows_file.read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join(lines[:40]))
    (folder / "test.jsonl").write_text("\n".join(lines[40:]))
    assert join(run, folder, "other")["rows"]["test"] == 20  # a folder's own test split is kept


@pytest.fixture
def fedit_run(trained):
    return trained("fedit")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("late", lambda run: (run / "result.json").unlink(), "not finished; finish it first: fedpeft resume"),
        ("late", lambda run: (run / "checkpoint.safetensors").unlink(), "keeps no checkpoint"),
        ("late", lambda run: shutil.rmtree(run / "clients/site0"), "no adapter of client 'site0'"),
        ("site1", lambda run: None, "has a client 'site1' already"),
        ("../late", lambda run: None, "--id names a client '../late'"),
        (".late", lambda run: None, "no leading"),
        ("", lambda run: None, "--id names no client"),
    ],
)
def test_a_run_or_an_id_that_will_not_do_is_one_line(fedit_run, rows_file, name, change, words):
    change(fedit_run)
    before = files(fedit_run)
    with pytest.raises(UserError, match=words) as refused:
        join(fedit_run, rows_file, name)
    assert "\n" not in str(refused.value)
    assert files(fedit_run) == before


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, "--data: no such file or folder"),
        ([], "--data: .*rows.jsonl holds no rows"),
        ([{"text": "a film", "label": 2}], r"rows.jsonl:1: label '2' is none that the federation .* knows: 0, 1"),
        ([{"text": "a film"}], "no column 'label'"),
        ([{"text": f"film {i}", "label": i % 2} for i in range(8)], r"client 'late' has .* needs 8"),
    ],
)
def test_rows_that_will_not_do_are_one_line(fedit_run, tmp_path, rows, words):
    file = tmp_path / "rows.jsonl"
    if rows is not None:
        file.write_text("\n".join(map(json.dumps, rows)))
    before = files(fedit_run)
    with pytest.raises(UserError, match=words):
        join(fedit_run, file, "late")
    assert files(fedit_run) == before


def test_an_id_is_stripped_before_it_names_a_folder(fedit_run, rows_file):
    assert join(fedit_run, rows_file, " late ")["client"] == "late"
    assert sorted(path.name for path in (fedit_run / "clients").iterdir()) == ["late", "site0", "site1", "site2"]
    for taken in ("late ", " site1"):
        with pytest.raises(UserError, match=f"a client {taken.strip()!r} already"):
            join(fedit_run, rows_file, taken)


def test_under_local_there_is_nothing_to_join(trained, rows_file):
    run = trained("alone", "methods.alone.method=local")
    with pytest.raises(UserError, match=r"method 'alone': .*nothing to join"):
        join(run, rows_file, "late")
    assert not (run / "clients/late").exists()


@pytest.mark.parametrize("where", ["training", "export"])
def test_an_interrupt_leaves_nothing_half_written(fedit_run, rows_file, monkeypatch, where):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    if where == "training":
        monkeypatch.setattr(joining, "_score_local_training", interrupted)
    else:
        monkeypatch.setattr("fedpeft.adapters.export.os.replace", interrupted)
    before = files(fedit_run)
    with pytest.raises(KeyboardInterrupt):
        join(fedit_run, rows_file, "late")
    assert files(fedit_run) == before
    assert not [path for path in (fedit_run / "clients").iterdir() if "late" in path.name]


def test_training_alone_knows_nothing_of_the_server(fedit_run, rows_file):
    first = join(fedit_run, rows_file, "late")["test"]
    shutil.rmtree(fedit_run / "clients/late")
    tree = load_checkpoint(fedit_run / "checkpoint.safetensors")
    tree["state"]["tensors"] = {name: 0.5 * tensor for name, tensor in tree["state"]["tensors"].items()}
    save_checkpoint(fedit_run / "checkpoint.safetensors", tree)
    second = join(fedit_run, rows_file, "late")["test"]
    assert first["alone"] == second["alone"]
    assert all(first[which]["loss"] != second[which]["loss"] for which in ("received", "trained", "answer"))


def test_a_training_that_diverges_is_one_line(fedit_run, rows_file):
    tree = load_checkpoint(fedit_run / "checkpoint.safetensors")
    name = next(iter(tree["state"]["tensors"]))
    tree["state"]["tensors"][name] = torch.full_like(tree["state"]["tensors"][name], float("nan"))
    save_checkpoint(fedit_run / "checkpoint.safetensors", tree)
    with pytest.raises(UserError, match="diverged"):
        join(fedit_run, rows_file, "late")
    assert not (fedit_run / "clients/late").exists()


def test_nobody_joins_a_run_over_sites_from_the_server(trained, rows_file):
    run = trained("fedit")
    text = (run / "experiment.yaml").read_text()
    (run / "experiment.yaml").write_text(text.replace("engine: local", "engine: flower"))
    before = files(run)
    with pytest.raises(UserError, match=r"is a run over sites.*start a run with one site more"):
        join(run, rows_file, "new")
    assert files(run) == before
