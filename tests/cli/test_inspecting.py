"""`fedpeft inspect` on data of one's own and on an experiment."""

import csv

from helpers.commands import refused

ROWS = [("good film", "pos", "a"), ("a bad film today", "neg", "b"), ("good film", "pos", "b"), ("dull", "neg", "a")]


def write_rows(folder, name="mine.csv"):
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "site"), *ROWS])
    return folder / name


def test_data_of_ones_own(fedpeft, tmp_path):
    done = fedpeft("inspect", write_rows(tmp_path), "--client", "site", "--max-length", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words = ["4 rows, 2 clients: 2 to 2", "skew: 0.00", "words: median 2", "proposed: max_length: 16", "a pos  b neg"]
    words += ["texts that several clients have: 2 rows; the most: a and b", "guessed from words"]
    assert [word for word in words if word not in done.stdout] == []
    assert max(map(len, done.stdout.splitlines()[:7])) <= 80  # the table


def test_tokens_are_counted_where_a_model_is_named(fedpeft, tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", None)  # no model is loaded
    done = fedpeft("inspect", write_rows(tmp_path), "--model", tiny_model, "--max-length", 4, cwd=tmp_path)
    assert "tokens: median 4, 95 % 6" in done.stdout and "max_length 4 cuts 1 rows (25.0 %)\n" in done.stdout
    assert "no column 'client': --client names one; columns: text, label, site" in done.stdout


def test_an_experiment_in_its_models_tokens(fedpeft, experiment_file, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", None)
    done = fedpeft("inspect", experiment_file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("240 rows, 3 clients", "labels: ", "skew: ", "no text stands twice", "max_length 16 cuts 0 rows"):
        assert words in done.stdout


def test_mistakes(fedpeft, tmp_path):
    file = write_rows(tmp_path)
    refused(fedpeft("inspect", "none.csv", cwd=tmp_path), "no such file or folder: none.csv", "give an experiment file")
    refused(fedpeft("inspect", file, "--text", "txt", cwd=tmp_path), "no column 'txt', did you mean 'text'?", "--text")
    refused(fedpeft("inspect", file, "--set", "a=1", cwd=tmp_path), "--set is for experiment files")
    refused(fedpeft("inspect", file, "--model", "./none", cwd=tmp_path), "no such folder")
    refused(fedpeft("inspect", "none.yaml", cwd=tmp_path), "no such experiment file: none.yaml")


def test_labels_that_look_wrong_are_told(fedpeft, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": "pos"}\n{"text": "b", "label": "pos"}')
    assert "one label only: there is nothing to learn" in fedpeft("inspect", "d.jsonl", cwd=tmp_path).stdout
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": "pos"}\n{"text": "b", "label": "Positive"}')
    assert "labels that may be one and the same" in fedpeft("inspect", "d.jsonl", cwd=tmp_path).stdout
