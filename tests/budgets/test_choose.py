"""The choice: the most that fits, never less for more, and one clear line when nothing does."""

import random
from dataclasses import replace

import pytest

from fedpeft.budgets.choose import Budget, choose
from fedpeft.budgets.search_space import Candidate, SearchSpace, list_candidates
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

SPACE = SearchSpace(max_length=128, batch_size=16, rank=8, densities=(1.0, 0.5, 0.25), examples=320)


def draw_budget(draw: random.Random) -> Budget:
    uplink = draw.choice([None, draw.uniform(0.05, 1.5)])
    return Budget(draw.uniform(600, 1100), uplink, draw.choice([None, draw.uniform(5, 80)]))


def enlarge(budget: Budget, draw: random.Random) -> Budget:
    """Each limit as it was, larger, or lifted."""
    others = [
        None if limit is None or draw.random() < 0.1 else limit * draw.choice([1.0, draw.uniform(1, 2)])
        for limit in (budget.uplink_mib_per_round, budget.seconds_per_round)
    ]
    return Budget(budget.memory_mib * draw.choice([1.0, draw.uniform(1, 1.5)]), *others)


def test_a_budget_allows_what_keeps_within_every_limit():
    candidate = Candidate(ClientResources(8), memory_mib=700, uplink_mib=0.5, seconds=2)
    assert Budget(700, 0.5, 40).allows(candidate, 20)  # limits may be met
    assert Budget(700).allows(candidate, 20)
    for short in (Budget(699), Budget(700, 0.49), Budget(700, None, 39)):
        assert not short.allows(candidate, 20)


def test_the_choice_is_the_largest_of_all_that_fit(shape, memory, time):
    """Brute force over every configuration, for random budgets."""
    draw = random.Random(0)
    everything = list_candidates(shape, memory, time, SPACE)
    kinds = set()
    for _ in range(40):
        budget = draw_budget(draw)
        fitting = [candidate for candidate in everything if budget.allows(candidate, 20)]
        if not fitting:
            with pytest.raises(UserError):
                choose(shape, memory, time, budget, SPACE)
            continue
        choice = choose(shape, memory, time, budget, SPACE)
        kinds.add(choice.resources)
        assert choice.memory_mib <= budget.memory_mib
        assert choice.uplink_mib <= (budget.uplink_mib_per_round or 1e9)
        assert choice.seconds * 20 <= (budget.seconds_per_round or 1e9)
        assert shape.count_trained(choice.resources) == max(shape.count_trained(c.resources) for c in fitting)
        learned = (choice.resources.rank, choice.resources.layers, choice.resources.density)
        alike = [c for c in fitting if (c.resources.rank, c.resources.layers, c.resources.density) == learned]
        assert choice.seconds == min(candidate.seconds for candidate in alike)
    assert len(kinds) > 10  # the budgets truly led to different choices


def test_a_larger_budget_never_gives_a_smaller_configuration(shape, memory, time):
    draw = random.Random(1)
    compared = 0
    for _ in range(60):
        budget = draw_budget(draw)
        larger = enlarge(budget, draw)
        try:
            small = choose(shape, memory, time, budget, SPACE)
        except UserError:
            continue
        large = choose(shape, memory, time, larger, SPACE)  # and raises nothing
        assert shape.count_trained(large.resources) >= shape.count_trained(small.resources)
        if shape.count_trained(large.resources) == shape.count_trained(small.resources):
            assert len(large.resources.layers) >= len(small.resources.layers)
        compared += 1
    assert compared > 30


def test_settings_that_change_no_result_are_lowered_first(shape, memory, time):
    """With less and less memory: smaller micro-batches and checkpointing; what is learned shrinks only after them."""
    largest = choose(shape, memory, time, Budget(1e6), SPACE)
    whole = largest.resources
    assert (whole.rank, whole.layers, whole.density) == (8, shape.list_top_blocks(6), 1.0)
    assert (whole.micro_batch, whole.checkpointing) == (16, False)
    smaller = choose(shape, memory, time, Budget(largest.memory_mib - 1), SPACE).resources
    assert replace(smaller, micro_batch=16) == whole and smaller.micro_batch < 16
    candidates = list_candidates(shape, memory, time, SPACE)
    least = min(c.memory_mib for c in candidates if c.resources.layers == whole.layers)
    fewer = choose(shape, memory, time, Budget(least - 0.5), SPACE).resources
    assert fewer.layers != whole.layers or fewer.rank < 8 or fewer.density < 1


def test_an_uplink_lowers_rank_before_layers(shape, memory, time):
    """Half the bytes could be half the rank or half the layers: few dimensions in many places."""
    whole = choose(shape, memory, time, Budget(1e6), SearchSpace(128, 16))
    half = choose(shape, memory, time, Budget(1e6, whole.uplink_mib * 0.52), SearchSpace(128, 16))
    assert (half.resources.rank, len(half.resources.layers)) == (4, 6)


def test_what_a_method_cannot_do_is_not_chosen(shape, memory, time):
    choice = choose(shape, memory, time, Budget(1e6, 0.2), SearchSpace(128, 16, rank=1, layers=3)).resources
    assert (choice.rank, choice.layers, choice.density) == (1, (3, 4, 5), 1.0)


@pytest.mark.parametrize(
    ("budget", "space", "words"),
    [
        (Budget(300), SPACE, ["300 MiB is less than the 6", "weights 84", "libraries 490", "smaller backbone"]),
        (Budget(1e4, 0.001), SPACE, ["0.001 MiB of uplink is less than", "adapter and head"]),
        (Budget(1e4, None, 0.01), SPACE, ["0.01 s is less than", "20 steps"]),
        (Budget(1e4, None, 0.01), replace(SPACE, examples=321), ["0.01 s is less than", "21 steps"]),
        (Budget(1e4, None, 5.0), SearchSpace(128, 16), ["5 seconds per round needs to know the examples"]),
    ],
)
def test_nothing_fits_is_one_line_that_says_what_would(shape, memory, time, budget, space, words):
    with pytest.raises(UserError) as raised:
        choose(shape, memory, time, budget, space, "client 'x'")
    assert str(raised.value).startswith("client 'x': ") and "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_limits_that_exclude_each_other_are_named_as_such(shape, memory, time):
    """Checkpointing with micro-batches of one fits the memory, and takes more seconds than there are."""
    space = replace(SPACE, layers=1, rank=1, densities=(1.0,))
    memory_mib = min(candidate.memory_mib for candidate in list_candidates(shape, memory, time, space))
    slow = replace(time, per_block=0.01)  # entering a block takes long: micro-batches are slow
    seconds = 20 * min(candidate.seconds for candidate in list_candidates(shape, memory, slow, space))
    with pytest.raises(UserError, match="at once"):
        choose(shape, memory, slow, Budget(memory_mib, None, seconds * 1.01), space)
