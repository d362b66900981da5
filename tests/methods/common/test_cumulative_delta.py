"""A sum of updates kept as factors: what is sent of it, and that every client holds the whole."""

import pytest
import torch
from helpers.replies import (
    SHAPES,
    TensorModel,
    are_equal,
    get_delta,
    is_close,
    lora_tensors,
    make_client,
)

from fedpeft.adapters import get_frozen_delta_names
from fedpeft.federation.message import Message
from fedpeft.methods.common.cumulative_delta import (
    ADDED,
    CumulativeState,
    compact_rank,
    draw_fresh_lora,
    name_frozen_delta,
    read_delta,
    take_frozen_delta,
)
from fedpeft.methods.common.lora_tensors import get_factors

MODULE = "m.layer.0.q"
Q_SHAPES = {f"{MODULE}.lora_A.weight": [2, 24], f"{MODULE}.lora_B.weight": [7, 2]}
ALL_SHAPES = {name: list(t.shape) for name, t in lora_tensors(0).items()}


def draw_factors(seed, rank=2):
    tensors = lora_tensors(seed, rank)
    return {module: get_factors(tensors, module) for module in SHAPES}


def get_dense(factors, module):
    b, a = factors[module]
    return b.double() @ a.double()


def run_rounds(clients_by_round):
    """The state after these rounds, and the dense sum of what they added."""
    state = CumulativeState({}, {"whole": ALL_SHAPES, "part": Q_SHAPES, "late": ALL_SHAPES})
    total = {module: torch.zeros(SHAPES[module], dtype=torch.float64) for module in SHAPES}
    for round_, clients in enumerate(clients_by_round, 1):
        added = draw_factors(round_)
        total = {module: total[module] + get_dense(added, module) for module in SHAPES}
        state = state.add_round({"mean": torch.tensor(float(round_))}, added, round_, clients)
    return state, total


def test_the_sum_is_exact_and_the_last_round_stands_beside_it():
    state, total = run_rounds([["whole"]] * 4)
    assert state.round == 4 and state.tensors == {"mean": torch.tensor(4.0)}
    for module in SHAPES:
        assert is_close(get_dense(state.total, module), total[module])
        assert state.total[module][1].shape[0] <= min(SHAPES[module])  # four rounds of rank 2 in at most 7
        assert torch.equal(get_dense(state.last, module), get_dense(draw_factors(4), module))


def test_a_client_of_the_last_round_is_sent_the_addition_and_all_others_the_sum():
    state, total = run_rounds([["whole", "part"], ["whole", "part"], ["whole"]])
    current, missed = state.select_delta("whole"), state.select_delta("late")
    assert all(name.startswith(ADDED) for name in current) and len(current) == 2 * len(SHAPES)
    assert not any(name.startswith(ADDED) for name in missed)
    for module in SHAPES:
        assert is_close(get_delta(current, module), get_dense(draw_factors(3), module))
        assert is_close(get_delta(missed, module), total[module])
    part = state.select_delta("part")  # it trained in round 2 but not in round 3
    assert set(part) == set(get_frozen_delta_names(MODULE)) and is_close(get_delta(part, MODULE), total[MODULE])


def test_a_joining_client_is_sent_the_sum_of_every_module():
    state, total = run_rounds([["whole"]])
    sent = state.select_delta("unknown")
    assert all(is_close(get_delta(sent, module), total[module]) for module in SHAPES)
    assert CumulativeState({}, {}).select_delta("unknown") == {}


def test_a_round_that_adds_to_other_modules_leaves_the_sum_of_the_rest():
    state, total = run_rounds([["whole"]])
    more = {MODULE: draw_factors(7)[MODULE]}
    after = state.add_round({}, more, 2, ["part"])
    assert is_close(get_dense(after.total, MODULE), total[MODULE] + get_dense(more, MODULE))
    assert after.total["m.layer.1.up"] is state.total["m.layer.1.up"]
    assert after.seen == {"whole": 1, "part": 2}
    assert after.select_delta("whole").keys() == state.select_delta("late").keys()  # it missed round 2


def test_what_a_client_holds_grows_by_what_is_added():
    own = name_frozen_delta(draw_factors(1, rank=6))
    added = {ADDED + name: t for name, t in name_frozen_delta(draw_factors(2)).items()}
    client = make_client(trained=lora_tensors(0) | own)
    delta = read_delta(client, Message("c0", 3, lora_tensors(5) | added))
    for module in SHAPES:
        expected = get_dense(draw_factors(1, 6), module) + get_dense(draw_factors(2), module)
        assert is_close(get_delta(delta, module), expected)
        assert delta[get_frozen_delta_names(module)[0]].shape[0] <= min(SHAPES[module])  # 6 + 2 is more than 7
    assert len(delta) == 2 * len(SHAPES)


@pytest.mark.parametrize("trained", [None, lora_tensors(0)])
def test_without_a_delta_of_its_own_a_client_holds_what_is_added(trained):
    new = name_frozen_delta(draw_factors(2))
    added = {ADDED + name: t for name, t in new.items()}
    assert are_equal(read_delta(make_client(trained=trained), Message("c0", 3, added)), new)


def test_a_whole_sum_replaces_what_a_client_holds():
    own, new = name_frozen_delta(draw_factors(1)), name_frozen_delta(draw_factors(2))
    client = make_client(trained=lora_tensors(0) | own)
    assert are_equal(read_delta(client, Message("c0", 3, lora_tensors(5) | new)), new)
    assert are_equal(take_frozen_delta(lora_tensors(5) | new), new)


@pytest.mark.parametrize(("rank", "expected"), [(6, 6), (7, 7), (8, 7)])
def test_ranks_above_the_smaller_dimension_are_compacted(rank, expected):
    factors = draw_factors(0, rank)[MODULE]
    compact = compact_rank(factors)
    assert compact[1].shape[0] == expected and is_close(compact[0] @ compact[1], factors[0] @ factors[1], 1e-4)
    assert (compact is factors) == (rank <= 7)


def test_a_fresh_lora_is_drawn_as_peft_does():
    model = TensorModel(lora_tensors(0, rank=64))
    fresh = draw_fresh_lora(model, torch.Generator().manual_seed(3))
    assert fresh.keys() == {name for name in model.names if "lora" in name}
    for module, (_, d_in) in SHAPES.items():
        b, a = get_factors(fresh, module)
        bound = d_in**-0.5  # kaiming_uniform with a = sqrt(5)
        assert not b.any() and float(a.abs().max()) <= bound
        assert float(a.max()) > 0.98 * bound and float(a.min()) < -0.98 * bound
        assert abs(float(a.mean())) < 0.1 * bound
    again = draw_fresh_lora(model, torch.Generator().manual_seed(3))
    other = draw_fresh_lora(model, torch.Generator().manual_seed(4))
    assert are_equal(fresh, again) and not are_equal(fresh, other)
