"""The choice: the most that fits, never less for more, and one clear line when nothing does."""

import random
from dataclasses import replace

import pytest

from fedpeft.budgets.choose import Budget, SearchSpace, choose, list_candidates
from fedpeft.errors import UserError

WANTED = SearchSpace(max_length=128, batch_size=16, rank=8, densities=(1.0, 0.5, 0.25), examples=320)


def random_budget(draw: random.Random) -> Budget:
    uplink = draw.choice([None, draw.uniform(0.05, 1.5)])
    return Budget(draw.uniform(600, 1100), uplink, draw.choice([None, draw.uniform(5, 80)]))


def grown(budget: Budget, draw: random.Random) -> Budget:
    """Each limit as it was, larger, or lifted."""
    more = [
        None if limit is None or draw.random() < 0.1 else limit * draw.choice([1.0, draw.uniform(1, 2)])
        for limit in (budget.uplink_mib_per_round, budget.seconds_per_round)
    ]
    return Budget(budget.memory_mib * draw.choice([1.0, draw.uniform(1, 1.5)]), *more)


def test_the_choice_is_the_largest_of_all_that_fit(shape, memory, time):
    """Brute force over every configuration, for random budgets."""
    draw = random.Random(0)
    everything = list_candidates(shape, memory, time, WANTED)
    kinds = set()
    for _ in range(40):
        budget = random_budget(draw)
        fitting = [need for need in everything if need.fits(budget, 20)]
        if not fitting:
            with pytest.raises(UserError):
                choose(shape, memory, time, budget, WANTED)
            continue
        chosen = choose(shape, memory, time, budget, WANTED)
        kinds.add(chosen.resources)
        assert chosen.memory_mib <= budget.memory_mib
        assert chosen.uplink_mib <= (budget.uplink_mib_per_round or 1e9)
        assert chosen.seconds * 20 <= (budget.seconds_per_round or 1e9)
        most = max(shape.trained(need.resources) for need in fitting)
        assert shape.trained(chosen.resources) == most
        learned = (chosen.resources.rank, chosen.resources.layers, chosen.resources.density)
        alike = [n for n in fitting if (n.resources.rank, n.resources.layers, n.resources.density) == learned]
        assert chosen.seconds == min(need.seconds for need in alike)
    assert len(kinds) > 10  # the budgets truly led to different choices


def test_a_larger_budget_never_gives_a_smaller_configuration(shape, memory, time):
    draw = random.Random(1)
    compared = 0
    for _ in range(60):
        budget = random_budget(draw)
        more = grown(budget, draw)
        try:
            small = choose(shape, memory, time, budget, WANTED)
        except UserError:
            continue
        large = choose(shape, memory, time, more, WANTED)  # and raises nothing
        assert shape.trained(large.resources) >= shape.trained(small.resources)
        if shape.trained(large.resources) == shape.trained(small.resources):
            assert len(large.resources.layers) >= len(small.resources.layers)
        compared += 1
    assert compared > 30


def test_levers_that_change_no_result_go_first(shape, memory, time):
    """With less and less memory: smaller pieces and checkpointing; what is learned shrinks only after them."""
    largest = choose(shape, memory, time, Budget(1e6), WANTED)
    whole = largest.resources
    assert (whole.rank, whole.layers, whole.density) == (8, shape.top(6), 1.0)
    assert (whole.micro_batch, whole.checkpointing) == (16, False)
    pieces = choose(shape, memory, time, Budget(largest.memory_mib - 1), WANTED).resources
    assert replace(pieces, micro_batch=16) == whole and pieces.micro_batch < 16
    least = min(
        n.memory_mib for n in list_candidates(shape, memory, time, WANTED) if n.resources.layers == whole.layers
    )
    fewer = choose(shape, memory, time, Budget(least - 0.5), WANTED).resources
    assert fewer.layers != whole.layers or fewer.rank < 8 or fewer.density < 1


def test_an_uplink_lowers_rank_before_layers(shape, memory, time):
    """Half the bytes could be half the rank or half the layers: few dimensions in many places."""
    whole = choose(shape, memory, time, Budget(1e6), SearchSpace(128, 16))
    half = choose(shape, memory, time, Budget(1e6, whole.uplink_mib * 0.52), SearchSpace(128, 16))
    assert (half.resources.rank, len(half.resources.layers)) == (4, 6)


def test_what_a_method_cannot_do_is_not_chosen(shape, memory, time):
    chosen = choose(shape, memory, time, Budget(1e6, 0.2), SearchSpace(128, 16, rank=1, layers=3)).resources
    assert (chosen.rank, chosen.layers, chosen.density) == (1, (3, 4, 5), 1.0)


@pytest.mark.parametrize(
    ("budget", "wanted", "words"),
    [
        (Budget(300), WANTED, ["300 MiB is less than the 6", "weights 84", "libraries 490", "smaller backbone"]),
        (Budget(1e4, 0.001), WANTED, ["0.001 MiB of uplink is less than", "adapter and head"]),
        (Budget(1e4, None, 0.01), WANTED, ["0.01 s is less than", "20 steps"]),
        (Budget(1e4, None, 5.0), SearchSpace(128, 16), ["seconds per round needs the rows"]),
    ],
)
def test_nothing_fits_is_one_line_that_says_what_would(shape, memory, time, budget, wanted, words):
    with pytest.raises(UserError) as raised:
        choose(shape, memory, time, budget, wanted, "client 'x'")
    assert str(raised.value).startswith("client 'x': ") and "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_limits_that_exclude_each_other_are_named_as_such(shape, memory, time):
    """Checkpointing in pieces of one row fits the memory, and costs more seconds than there are."""
    wanted = replace(WANTED, layers=1, rank=1, densities=(1.0,))
    options = list_candidates(shape, memory, time, wanted)
    memory_mib = min(need.memory_mib for need in options)
    slow = time.__class__(time.per_product, 0.01)  # entering a block costs much: pieces are slow
    seconds = 20 * min(need.seconds for need in list_candidates(shape, memory, slow, wanted))
    with pytest.raises(UserError, match="at once"):
        choose(shape, memory, slow, Budget(memory_mib, None, seconds * 1.01), wanted)
