"""The experiment files of the papers are valid as they stand, and divide small data of the published forms."""

import gzip
import json
from pathlib import Path

import pytest

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.compare import compare
from fedpeft.tasks.load import load_task

FILES = sorted((Path(__file__).parent.parent / "papers").glob("*.yaml"))
CLIENTS = {"commonsense_mt": 5, "commonsense_dt": 5, "gsm8k": 3, "fedreft_glue": 3, "fedhft_glue": 8}
WORDS = ("river", "stone", "cloud", "amber", "quiet", "seven", "maple", "violet")


def commonsense(i):
    answer = f"answer{i % 4 + 1}"
    tail = "Answer1: a Answer2: b Answer3: c Answer4: d\n\nAnswer format: answer1/answer2/answer3/answer4"
    return {"instruction": f"Which of {i}?\n\n{tail}", "output": f"the correct answer is {answer}", "answer": answer}


def gsm8k(i):
    return {"instruction": f"{i} and {i}?", "output": f"It is {i} + {i} = {2 * i}.\n#### {2 * i}", "answer": str(2 * i)}


def sst2(i):
    return {"sentence": f"{WORDS[i % 8]} and {i}", "label": i % 2}


def write(folder, row, start):
    folder.mkdir(parents=True)
    for split, first, last in (("train", 0, 400), ("test", 400, 500)):
        rows = "\n".join(json.dumps(row(start + i)) for i in range(first, last))
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, task in enumerate(("boolq", "piqa", "arc_easy", "arc_challenge", "openbookqa", "hellaswag")):
        write(root / "commonsense" / task, commonsense, 1000 * number)
    write(root / "gsm8k", gsm8k, 0)
    write(root / "sst2", sst2, 0)
    return root


def test_the_five_files_are_there():
    assert [file.stem for file in FILES] == [
        "fedhft_glue", "fedreft_commonsense_dt", "fedreft_commonsense_mt", "fedreft_glue", "fedreft_gsm8k",
    ]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_valid_as_it_stands(file):
    experiment = load_experiment(file)
    assert experiment.name == file.stem
    assert experiment.model.device == "cpu", "a file that names a GPU does not run without one"
    assert file.stem.split("_")[0] in {experiment.get_method_name(label) for label in experiment.methods}
    for label in experiment.methods:
        assert experiment.list_learning_rates(label) == [None], "a published setting is one learning rate"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_divides_small_data(file, data):
    folder = next(f for f in ("commonsense", "gsm8k", "sst2") if f in file.stem or f == "sst2")
    small = (
        ["partition.clients=8", "partition.max_train=6"] if file.stem == "fedhft_glue" else ["partition.max_train=6"]
    )
    experiment = load_experiment(file, [f"task.source={data / folder}", "model.name=anything", *small])
    clients = load_task(experiment.task, experiment.partition, 0, file.parent).clients
    assert len(clients) == next(count for name, count in CLIENTS.items() if name in file.stem)
    assert all(len(client.train) == 6 and client.validation and client.test for client in clients)
    if "commonsense" in file.stem:
        first = clients[0].train[0]
        assert first.target == f"the correct answer is {first.answer}" and len(first.choices) == 4
    if "_dt" in file.stem:
        assert [client.id for client in clients] == sorted(experiment.task.tasks)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_runs_on_a_small_model(file, data, tiny_model, tiny_decoder, tmp_path):
    """The same file with another model: every method in it trains, replies and is scored."""
    folder = next(f for f in ("commonsense", "gsm8k", "sst2") if f in file.stem or f == "sst2")
    model = tiny_model if folder == "sst2" else tiny_decoder
    small = ["max_train=8", "max_validation=2", "max_test=2", *["clients=4"] * (file.stem == "fedhft_glue")]
    overrides = [f"task.source={data / folder}", f"model.name={model}", "model.max_length=32", "training.rounds=1"]
    overrides += [f"partition.{limit}" for limit in small] + ["task.max_new_tokens=2"] * (model == tiny_decoder)
    labels = [label for label in load_experiment(file, overrides).methods if label != "zero_shot"]
    overrides += [f"methods.{label}.adapter.r=8" for label in labels]  # its layers are narrower than published ranks
    experiment = load_experiment(file, overrides)
    comparison = compare(experiment, list(experiment.methods), 1, tmp_path, tmp_path / "out", RunCallback())
    assert [row["label"] for row in comparison["rows"]] == list(experiment.methods)
    rows = comparison["rows"]
    assert all(row["quarantined"] == 0 and row["metric"] == rows[0]["metric"] for row in rows)


def test_commonsense_files_differ_in_name_and_partition_only():
    one, other = (load_experiment(FILES[0].parent / f"fedreft_commonsense_{k}.yaml").model_dump() for k in ("mt", "dt"))
    assert {key for key in one if one[key] != other[key]} == {"name", "partition"}
