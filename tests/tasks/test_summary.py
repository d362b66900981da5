"""Which clients have which labels, as plain rows."""

from fedpeft.tasks.examples import ClientData, Example, FederatedData
from fedpeft.tasks.summary import label_distribution


def make_examples(*labels):
    return tuple(Example(f"text {i}", label) for i, label in enumerate(labels))


def test_fractions_are_of_training_examples_by_name():
    clients = (
        ClientData("a", make_examples(0, 0, 0, 2), make_examples(1), make_examples(1, 1)),
        ClientData("b", make_examples(1), (), ()),
    )
    assert label_distribution(FederatedData(clients, ("x", "y", "z"), ())) == [
        {"client": "a", "train": 4, "validation": 1, "test": 2, "labels": {"x": 0.75, "y": 0.0, "z": 0.25}},
        {"client": "b", "train": 1, "validation": 0, "test": 0, "labels": {"x": 0.0, "y": 1.0, "z": 0.0}},
    ]
