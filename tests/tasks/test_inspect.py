"""What data look like before training: skew, repetitions, lengths."""

from collections import Counter
from itertools import pairwise

import pytest

from fedpeft.tasks.examples import ClientData, Example, FederatedData
from fedpeft.tasks.inspect import (
    Inspection,
    Sample,
    compute_skew,
    count_repetitions,
    make_histogram,
    make_samples,
    read_samples,
)


def test_skew_is_the_mean_distance_of_two_clients_labels():
    alike, others = Counter(a=3, b=1), Counter(a=30, b=10)
    assert compute_skew({"x": alike, "y": others}) == pytest.approx(0)
    assert compute_skew({"x": Counter(a=5), "y": Counter(b=9)}) == pytest.approx(1)
    three = {"x": Counter(a=1), "y": Counter(b=1), "z": Counter(a=1, b=1)}
    assert compute_skew(three) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert compute_skew({"x": alike}) is None and compute_skew({}) is None


def test_repetitions_within_a_client_and_across_clients():
    rows = [("a", "Good  film"), ("a", "good film"), ("b", "good film"), ("b", "bad"), ("c", "bad"), ("c", "new")]
    repetitions = count_repetitions([Sample(client, None, (text,)) for client, text in rows])
    assert (repetitions.within, repetitions.across) == (1, 5)
    assert dict(repetitions.pairs) == {("a", "b"): 1, ("b", "c"): 1}


def test_the_proposed_length_keeps_nearly_all_whole():
    samples = [Sample("a", None, ("x",))] * 200
    tokens = [10] * 100 + [41] * 98 + [500] * 2
    inspection = Inspection(samples, tokens)
    assert inspection.proposed_length == 48 and inspection.count_longer(48) == 2 and inspection.count_longer(40) == 100
    words = Inspection([Sample("a", None, ("one two three", "four"))] * 2)
    assert words.lengths == [4, 4] and words.proposed_length == 16  # no shorter than that
    assert Inspection([Sample("a", None, ("x " * 20,))]).proposed_length == 32


@pytest.mark.parametrize("values", [[5], [1, 2, 3], [7] * 9, [*range(1000), 10**6]])
def test_a_histogram_counts_every_value_once(values):
    bins = make_histogram(values)
    assert sum(count for _, _, count in bins) == len(values) and len(bins) <= 10
    assert bins[0][0] == min(values) and bins[-1][1] >= max(values)
    assert all(last + 1 == first for (_, last, _), (first, _, _) in pairwise(bins))


def test_samples_of_clients_and_of_rows():
    client = ClientData("a", (Example("t", 1),), (Example("u", 0, "v"),), ())
    samples = read_samples(FederatedData((client,), ("no", "yes"), ()))
    assert samples == [Sample("a", "yes", ("t",)), Sample("a", "no", ("u", "v"))]
    assert read_samples(FederatedData((client,), ("regression",), ()))[0].label is None
    rows = [{"t": "x", "l": 1, "c": " b "}, {"t": None, "l": 2, "c": 3}]
    assert make_samples(rows, ["t"], "l", "c") == [Sample("b", "1", ("x",)), Sample("3", "2", ("",))]
    inspection = Inspection(samples)
    assert inspection.sizes == {"a": 2} and inspection.labels == {"yes": 1, "no": 1}
