"""`fedpeft export` as a user meets it."""

import pytest
from helpers.commands import refused

from fedpeft.runs import push


@pytest.fixture
def push_calls(monkeypatch):
    """What `push` was asked for, in place of a hub."""
    calls = []
    monkeypatch.setattr(push, "push", lambda *arguments: calls.append(arguments) or "https://huggingface.co/o/m")
    return calls


def test_merge_and_push(exported, fedpeft, tmp_path, push_calls):
    run, _ = exported
    (run / "result.json").write_text("{}")
    done = fedpeft("export", run, "--client", "site2", "--merge", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"written to {run}/merged/site2\n" and (run / "merged/site2/config.json").is_file()

    done = fedpeft("export", run, "--push-to-hub", "o/m", cwd=tmp_path)
    assert done.stdout == "pushed to https://huggingface.co/o/m\n", done.stderr
    ((folders, repository, public),) = push_calls
    assert folders == {name: run / "clients" / name / "adapter" for name in ("site0", "site1", "site2")}
    assert (repository, public) == ("o/m", False)

    done = fedpeft("export", run, "--client", "site2", "--merge", "--out", "m", "--push-to-hub", "o/m", cwd=tmp_path)
    assert done.returncode == 0 and set(push_calls[-1][0]) == {""}, done.stderr


def test_mistakes_are_one_line(exported, fedpeft, tmp_path, push_calls):
    run, _ = exported
    for arguments, words in (
        ([run], ["--merge", "--push-to-hub", "PEFT folders"]),
        ([run, "--client", "site9", "--merge"], ["'site9'", "site0, site1, site2"]),
        ([run, "--client", "../x", "--push-to-hub", "o/m"], ["'../x'"]),
        ([run, "--push-to-hub", "o/m", "--out", "x"], ["--out goes with --merge"]),
        ([run, "--merge", "--public"], ["--public goes with --push-to-hub"]),
        ([tmp_path / "none", "--merge"], ["no run at"]),
    ):
        refused(fedpeft("export", *arguments, cwd=tmp_path), *words)
    (tmp_path / "file").write_text("")
    refused(fedpeft("export", run, "--merge", "--out", "file/x", cwd=tmp_path), "cannot create", "--out")
    assert push_calls == []
