"""Which clients have which labels, as plain rows; all labels and lengths in lines."""

from fedpeft.tasks.examples import ClientData, Example, FederatedData
from fedpeft.tasks.summary import describe_data, label_distribution


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


def test_labels_of_all_splits_are_counted_the_most_frequent_first():
    client = ClientData("a", make_examples(0, 2), make_examples(2), make_examples(1, 2))
    data = FederatedData((client, client), ("x", "y", "z"), ())
    assert describe_data(data, 9) == ["rows by label: 'z' 6, 'x' 2, 'y' 2"]
    many = FederatedData((ClientData("a", make_examples(*range(40)), (), ()),), tuple(map(str, range(40))), ())
    assert describe_data(many, 9)[0].endswith("'11' 1 and 28 labels more")
    single = FederatedData((client,), ("regression",), ())
    assert describe_data(single, 9) == []


def test_examples_of_more_words_than_fit_are_counted():
    examples = (Example("a b c", 0), Example("a b", 0, "c d"), Example("a b", 0, target="c d"), Example("a  b\nc d", 0))
    data = FederatedData((ClientData("a", examples, (), ()),), ("all",), ())
    (line,) = describe_data(data, 3)
    assert line.startswith("3 of 4 rows have more words than model.max_length=3: these will be cut, and maybe others")
    assert describe_data(data, 4) == []
