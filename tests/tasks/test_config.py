"""What an experiment may say of its data, and one clear line for what it may not."""

import pytest
from pydantic import ValidationError

from fedpeft.errors import UserError
from fedpeft.tasks.config import PartitionConfig, TaskConfig


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ([], "task.source is empty; give a folder, a file, a list of files, files by split, or a hub data set"),
        ({}, "task.source is empty; give"),
        (None, "task.source is empty; give"),
        ("", "task.source is empty; give"),
        (" ", "task.source is empty; give"),
        (["a.csv", ""], "task.source: one of the files is empty, received ['a.csv', '']"),
        ({"train": None, "test": "a.csv"}, "task.source: one of the files is empty"),
        (7, "task.source: expected a folder, a file, a list of files, files by split, or a hub data set, received 7"),
        (["a.csv", 7], "or a hub data set, received 7"),
    ],
)
def test_a_source_that_names_nothing_is_one_line(source, line):
    with pytest.raises(UserError) as caught:
        TaskConfig.model_validate({"source": source})
    assert str(caught.value).startswith(line) or str(caught.value).endswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["a.csv", ["a.csv", "b.csv"], {"train": "a.csv"}])
def test_a_source_is_a_name_names_or_names_by_split(source):
    assert TaskConfig(source=source).source == source


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"kind": "classifcation"}, "unknown kind 'classifcation', did you mean 'classification'?; known: classific"),
        ({"kind": "clustering"}, "unknown kind 'clustering'; known: classification, generation, multiple_choice, reg"),
        ({"kind": "base"}, "unknown kind 'base'; known"),
        ({"metric": "acuracy"}, "classification has the metrics accuracy, f1, macro_f1, matthews, not 'acuracy', did"),
        ({"metric": "pearson"}, "classification has the metrics accuracy, f1, macro_f1, matthews, not 'pearson'"),
        (
            {"kind": "regression", "metric": "accuracy"},
            "regression has the metrics correlation, pearson, spearman",
        ),
        ({"template": "hello"}, "the template must hold {text}"),
        ({"template_pair": "{text}"}, "template_pair must hold {text} and {text_pair}"),
        ({"template_pair": "{text_pair}"}, "template_pair must hold {text} and {text_pair}"),
        ({"kind": "generation", "extract": "choice"}, "extract: choice needs `choices`"),  # each kind checks its own
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, line):
    with pytest.raises(ValidationError) as caught:
        TaskConfig(source="a.csv", **keys)
    assert line in str(caught.value)


def test_chat_is_a_template_without_a_place_for_the_text():
    assert TaskConfig(source="a.csv", template="chat").template == "chat"


def test_a_preset_fills_in_what_is_not_given():
    config = TaskConfig.model_validate({"preset": "mrpc", "source": "folder", "metric": "f1"})
    assert (config.preset, config.kind, config.text, config.metric) == ("mrpc", "classification", "sentence1", "f1")
    assert config.model_dump()["preset"] == "mrpc"  # which a run's own experiment.yaml keeps
    with pytest.raises(UserError, match="did you mean 'mrpc'"):
        TaskConfig.model_validate({"preset": "mrcp"})


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="sauce"):
        TaskConfig.model_validate({"source": "a.csv", "sauce": 1})
    with pytest.raises(ValidationError, match="cleints"):
        PartitionConfig.model_validate({"kind": "iid", "cleints": 1})


@pytest.mark.parametrize("key", ["alpha", "validation", "test"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_is_none_is_refused(key, value):
    with pytest.raises(ValidationError, match=f"{key}\n.*finite number"):
        PartitionConfig(kind="dirichlet", clients=2, **{key: value})


def test_rows_are_dealt_unless_a_column_names_their_client():
    kinds = ("natural", "distinct", "mixed", "dirichlet", "shards", "quantity", "iid")
    assert [PartitionConfig(kind=kind).is_dealt for kind in kinds] == [False, False, *[True] * 5]
