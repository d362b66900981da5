"""Tasks for tests, without an experiment or a tokenizer."""

from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.kinds.classification import Classification


def make_classification(labels=3, kind=Classification, **config):
    """A classification, or a subclass of it, of labels "0", "1", ...; its examples are encoded already."""
    return kind(TaskConfig(source="rows.jsonl", **config), [str(i) for i in range(labels)], None, 64)
