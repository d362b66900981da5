"""Kinds of task are found by their file's name, and make the tasks that clients hold."""

import pytest
import torch
from helpers.heads import WordTokenizer

from fedpeft.errors import UserError
from fedpeft.tasks import kinds
from fedpeft.tasks.autocast import Autocast
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.kinds import find_kind, list_kinds, make_task
from fedpeft.tasks.kinds.base import TaskKind
from fedpeft.tasks.kinds.classification import Classification

CONFIG = TaskConfig(source="rows.jsonl")
FILE = """
from fedpeft.tasks.kinds.classification import Classification

class {name}(Classification):
    metrics = ("luck",)
"""


@pytest.fixture
def add_file(tmp_path, monkeypatch):
    """add_file("ordinal", "...") -> a file beside the kinds, until the test ends."""

    def add(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])

    return add


def test_the_files_are_the_kinds():
    assert list_kinds() == ["classification", "generation", "multiple_choice", "regression"]
    assert find_kind("classification") is Classification
    for name in list_kinds():
        kind = find_kind(name)
        assert issubclass(kind, TaskKind) and len(set(kind.metrics)) == len(kind.metrics) > 0


def test_a_new_file_is_a_new_kind(add_file):
    add_file("ordinal_here", FILE.format(name="Ordinal"))
    assert "ordinal_here" in list_kinds()
    config = TaskConfig(source="rows.jsonl", kind="ordinal_here", metric="luck")
    assert make_task(config, ["0", "1"], None, 8).metric == "luck"


def test_an_unknown_kind_is_one_line():
    with pytest.raises(UserError, match="unknown kind 'clustering'; known: classification, generation"):
        find_kind("clustering")
    for part in ("base", "common"):
        with pytest.raises(UserError, match="unknown kind"):
            find_kind(part)


@pytest.mark.parametrize(("names", "received"), [((), "none"), (("One", "Two"), "One, Two")])
def test_a_file_must_hold_one_kind(add_file, names, received):
    file = f"kind_of_{len(names)}"
    add_file(file, "".join(FILE.format(name=name) for name in names))
    with pytest.raises(UserError, match=rf"{file}\.py must define one kind of task, received: {received}"):
        find_kind(file)


def test_a_task_has_all_that_a_client_asks_of_it():
    task = make_task(CONFIG, ["a", "b", "c"], WordTokenizer("x"), 12)
    assert isinstance(task, Classification)
    assert (task.config, task.labels, task.max_length, task.metric) == (CONFIG, ("a", "b", "c"), 12, "accuracy")
    named = make_task(TaskConfig(source="rows.jsonl", metric="macro_f1"), ["a", "b"], None, 12)
    assert named.metric == "macro_f1"


def test_a_lower_precision_is_around_the_task():
    task = make_task(CONFIG, ["a", "b"], None, 12, torch.bfloat16)
    assert isinstance(task, Autocast) and isinstance(task.task, Classification) and task.dtype == torch.bfloat16
