import statistics

import pytest
import torch

from fedpeft.federation.influence import (
    Change,
    compare_changes,
    find_medians_of_others,
    is_finite,
    measure_change,
    scale_changes,
    subtract,
)

ADAPTER, HEAD = "m.lora_A.weight", "m.classifier.weight"


def test_a_change_is_measured_by_part_and_what_was_not_sent_counts_from_zero():
    before = {ADAPTER: torch.ones(2, 2)}
    after = {ADAPTER: torch.full((2, 2), 4.0), HEAD: torch.tensor([0.0, 8.0, 0.0]), "bits": torch.ones(9).byte()}
    change = measure_change(after, before)
    assert change.norms == pytest.approx((6.0, 8.0)) and change.sizes == (4, 3)
    assert measure_change({}, before) == Change((0.0, 0.0), (0, 0))


def test_the_difference_leaves_its_terms_as_they_were():
    before, after = {ADAPTER: torch.ones(2)}, {ADAPTER: torch.full((2,), 3.0), HEAD: torch.ones(1)}
    difference = subtract(after, before)
    assert torch.equal(difference[ADAPTER], torch.full((2,), 2.0)) and torch.equal(difference[HEAD], torch.ones(1))
    assert torch.equal(after[ADAPTER], torch.full((2,), 3.0)) and torch.equal(before[ADAPTER], torch.ones(2))


@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 1.0, 9.0], [4.0] * 5, [0.5, 7, 2, 9, 1, 3]])
def test_medians_of_all_the_others_are_those_of_the_lists_without_one(values):
    expected = [statistics.median_high(values[:i] + values[i + 1 :]) for i in range(len(values))]
    assert find_medians_of_others(values) == expected


def test_ratios_allow_the_root_of_more_examples_and_of_more_values():
    changes = [Change((norm, 0.0), (size, 0)) for norm, size in ((6.0, 400), (1.0, 100), (1.0, 100), (0.5, 1))]
    ratios, medians = compare_changes(changes, [9, 1, 1, 1])
    assert ratios[0] == pytest.approx([1.0, 1.0, 1.0, 0.5])  # sqrt(9 x 4) = 6; few values allow no less than others
    assert medians[0] == [1.0, 1.0, 1.0, 1.0] and ratios[1] == medians[1] == [0.0] * 4


def test_one_of_five_cannot_move_what_it_is_compared_with():
    for own in (1.0, 100.0, 1e30):
        ratios, medians = compare_changes([Change((n, n), (1, 1)) for n in (1.0, 1.5, 2.0, 2.5, own)], [1] * 5)
        assert medians[0][4] == 2.0 and ratios[0][4] == own / 2.0
        assert max(ratios[0][:4]) <= 2.5


def test_changes_are_scaled_by_part_towards_the_baseline():
    before = {ADAPTER: torch.ones(2), HEAD: torch.zeros(2)}
    after = {ADAPTER: torch.full((2,), 5.0), HEAD: torch.full((2,), 4.0), "bits": torch.ones(2).byte()}
    scaled = scale_changes(after, before, 0.25, 0.5)
    assert torch.equal(scaled[ADAPTER], torch.full((2,), 2.0)) and torch.equal(scaled[HEAD], torch.full((2,), 2.0))
    assert scaled["bits"] is after["bits"] and scale_changes(after, before, 1, 1)[HEAD] is after[HEAD]


def test_large_values_are_finite_and_one_that_is_not_is_found():
    large = torch.full((4,), 3e38)
    assert is_finite([large, torch.tensor([1, 2]), large.bfloat16()])
    assert not is_finite([large, torch.tensor([0.0, float("inf")])])
    assert not is_finite([torch.tensor([float("nan")]), large])
    assert is_finite([])
