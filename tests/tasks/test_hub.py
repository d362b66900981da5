"""Data sets of the hub: which is asked for, labels by name, splits without labels. No test asks the hub itself."""

import datasets
import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.presets import PRESETS
from fedpeft.tasks.sources import read_source


def test_the_hub_is_asked_for_presets_beside_any_folder(tmp_path, monkeypatch):
    requests = []

    def load_dataset(*names):
        requests.append("/".join(names))
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hubs = [preset.hub for preset in PRESETS.values() if preset.hub]
    for hub in hubs:  # a preset's own id is the hub's, even where a folder is called as its owner
        (tmp_path / hub.split("/")[0]).mkdir(exist_ok=True)
        with pytest.raises(UserError, match="nor a hub data set in reach"):
            read_source(hub, tmp_path)
    assert [name.removeprefix("nyu-mll/") for name in requests] == hubs and "openai/gsm8k/main" in requests
    for other in ("glue/ax", "imdb", "owner/name", "owner/name/config"):
        with pytest.raises(UserError, match="nor a hub data set in reach"):
            read_source(other, tmp_path / "elsewhere")


def test_the_hub_gives_named_labels_and_leaves_out_a_withheld_test(tmp_path, monkeypatch):
    requests = []
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})

    def load_dataset(*names):
        requests.append(names)
        split = {
            "train": {"text": ["a", "b"], "label": [1, 0]},
            "validation": {"text": ["c"], "label": [1]},
            "test": {"text": ["d"], "label": [-1]},
            "extra": {"text": ["e"], "label": [0]},
        }
        return datasets.DatasetDict({k: datasets.Dataset.from_dict(v, features=features) for k, v in split.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    tables, notes = read_source("glue/sst2", tmp_path)
    read_source("owner/name", tmp_path)
    read_source("owner/name/config", tmp_path)
    assert requests == [("nyu-mll/glue", "sst2"), ("owner/name",), ("owner/name", "config")]
    assert sorted(tables) == ["train", "validation"]
    assert [row["label"] for row in tables["train"]] == ["yes", "no"]
    assert any("withheld" in note for note in notes) and any("'extra'" in note for note in notes)


def test_a_hub_out_of_reach_is_one_line(tmp_path, monkeypatch):
    def load_dataset(*names):
        raise ConnectionError("no network\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"neither at .* nor a hub data set in reach \(no network\)"):
        read_source("glue/sst2", tmp_path)


def test_the_limit_holds_for_the_hub_too(tmp_path, monkeypatch):
    data = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["x" * 2**20], "label": [0]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: data)
    assert read_source("owner/name", tmp_path, max_mib=2)
    with pytest.raises(UserError, match=r"owner/name train: its rows would take more than 1 MiB"):
        read_source("owner/name", tmp_path, max_mib=1)
