"""Levels of resources: what each gives, and which client has which."""

from collections import Counter

import pytest

from fedpeft.budgets.levels import assign_resources, joining_resources, make_resources, minimum_config, states_budget
from fedpeft.config import ResourceLevel
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

CLIENTS = [f"client {i}" for i in range(8)]
BUDGETS = [{"memory_mib": 900}, {"uplink_mib_per_round": 0.5}, {"seconds_per_round": 30}]


@pytest.fixture
def backbone(tiny):
    """BERT with 3 blocks."""
    return tiny("bert")


def make_levels(*settings):
    return [ResourceLevel(**level) for level in settings]


def test_without_levels_every_client_is_left_to_the_method_s_options(backbone):
    assert assign_resources(CLIENTS, [], backbone, 0) == dict.fromkeys(CLIENTS, ClientResources())


@pytest.mark.parametrize(
    ("fractions", "counts"),
    [((0.25, 0.5, 0.25), (2, 4, 2)), ((1, 2, 1), (2, 4, 2)), ((1, 1, 0.001), (4, 4, 0)), ((1, 1, 1), (3, 2, 3))],
)
def test_each_level_goes_to_its_fraction_of_the_clients(backbone, fractions, counts):
    levels = make_levels(*({"fraction": f, "rank": i + 1} for i, f in enumerate(fractions)))
    assigned = assign_resources(CLIENTS, levels, backbone, 0)
    assert list(assigned) == sorted(CLIENTS)
    ranks = Counter(own.rank for own in assigned.values())
    assert tuple(ranks[i + 1] for i in range(3)) == counts


def test_the_seed_draws_who_gets_which(backbone):
    levels = make_levels({"rank": 8}, {"rank": 2})
    drawn = [assign_resources(CLIENTS, levels, backbone, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({tuple(own.rank for own in assigned.values()) for assigned in drawn}) == 2


def test_a_level_gives_all_its_settings_and_its_layers_are_the_topmost(backbone):
    (level,) = make_levels({"rank": 4, "layers": 2, "density": 0.5, "micro_batch": 3, "checkpointing": True})
    assert make_resources(level, backbone) == ClientResources(4, (1, 2), 0.5, 3, True)
    assert make_resources(ResourceLevel(), backbone) == ClientResources()


def test_more_layers_than_blocks_are_refused(backbone):
    with pytest.raises(UserError, match="the backbone has 3 blocks, a level asks for 4"):
        make_resources(ResourceLevel(layers=4), backbone)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_has_to_be_resolved_first(backbone, budget):
    level = ResourceLevel(**budget)
    assert states_budget(level) and not states_budget(ResourceLevel(rank=4))
    with pytest.raises(UserError, match="a budget that was not fitted; call `resolve_budgets` first"):
        make_resources(level, backbone)


@pytest.mark.parametrize(
    ("others", "joining"),
    [
        ([ClientResources(4, (1, 2), 0.5)] * 2, ClientResources(4, (1, 2), 0.5)),
        ([ClientResources(4, (2,)), ClientResources(4, (1, 2))], ClientResources(4, (1, 2))),
        ([ClientResources(4, (2,)), ClientResources(2, (1, 2))], ClientResources(None, (1, 2))),
        ([ClientResources(4, (2,), 0.5), ClientResources(4, (2,))], ClientResources(None, (2,), 1.0)),
        ([ClientResources(4, (2,)), ClientResources(4)], ClientResources(4)),
        ([ClientResources(), ClientResources()], ClientResources()),
        ([ClientResources(4, micro_batch=2, checkpointing=True)], ClientResources(4)),
    ],
)
def test_a_joining_client_has_what_all_others_have_alike(others, joining):
    assert joining_resources(dict(zip(CLIENTS, others, strict=False))) == joining


def test_the_minimum_is_taken_setting_by_setting_and_rounding_stays_each_client_s_own():
    assigned = {
        "a": ClientResources(4, (0, 1, 2), 0.5, 2, True),
        "b": ClientResources(8, (2,), 1.0),
        "c": ClientResources(2, None, 0.75, 4),
    }
    assert minimum_config(assigned) == {
        "a": ClientResources(2, (2,), 0.5, 2, True),
        "b": ClientResources(2, (2,), 0.5),
        "c": ClientResources(2, (2,), 0.5, 4),
    }


def test_the_minimum_of_what_nobody_states_is_left_to_the_method():
    assert minimum_config(dict.fromkeys(CLIENTS, ClientResources())) == dict.fromkeys(CLIENTS, ClientResources())
