"""The configurations that a budget chooses from."""

from itertools import product

import pytest

from fedpeft.budgets.search_space import SearchSpace, list_candidates
from fedpeft.resources import ClientResources
from fedpeft.units import MIB


def test_every_combination_of_the_settings_is_there_once(shape, memory, time):
    space = SearchSpace(max_length=128, batch_size=12, rank=5, layers=2, densities=(1.0, 0.25))
    listed = [candidate.resources for candidate in list_candidates(shape, memory, time, space)]
    combinations = product((5, 2, 1), ((4, 5), (5,)), (1.0, 0.25), (12, 6, 3, 1), (False, True))
    assert len(listed) == len(set(listed))
    assert set(listed) == {ClientResources(*settings) for settings in combinations}


@pytest.mark.parametrize(("layers", "most"), [(None, 6), (99, 6), (3, 3), (1, 1)])
def test_layers_are_counted_from_the_top_and_are_at_most_the_blocks_there_are(shape, memory, time, layers, most):
    space = SearchSpace(max_length=128, batch_size=1, rank=1, layers=layers)
    listed = {candidate.resources.layers for candidate in list_candidates(shape, memory, time, space)}
    assert listed == {shape.list_top_blocks(count) for count in range(1, most + 1)}


def test_checkpointing_that_nobody_provides_is_no_choice(shape, memory, time, monkeypatch):
    monkeypatch.setattr("fedpeft.budgets.search_space.can_checkpoint", lambda: False)
    listed = list_candidates(shape, memory, time, SearchSpace(max_length=128, batch_size=2, rank=1))
    assert not any(candidate.resources.checkpointing for candidate in listed)


def test_figures_are_those_of_the_models(shape, memory, time):
    """Memory is of a micro-batch, seconds are of the whole batch."""
    space = SearchSpace(max_length=128, batch_size=16)
    candidates = {candidate.resources: candidate for candidate in list_candidates(shape, memory, time, space)}
    own = ClientResources(8, (4, 5), 1.0, 4, True)
    candidate = candidates[own]
    assert candidate.memory_mib == memory.predict(shape, 128, 4, own)
    assert candidate.uplink_mib == shape.estimate_uplink_bytes(own) / MIB
    assert candidate.seconds == time.predict(shape, 128, 16, own)
