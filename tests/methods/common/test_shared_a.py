"""A that everyone draws from the seed: equal for all, nested in rank, new in each round; and exact sums with it."""

import torch
from helpers.replies import is_close

from fedpeft.methods.common.shared_a import draw_shared_a, fold_shared_a


def test_ranks_nest_and_rounds_modules_and_seeds_differ():
    largest = draw_shared_a(0, 1, "m", 8, 24)
    assert torch.equal(draw_shared_a(0, 1, "m", 3, 24), largest[:3])
    for seed, round_, module in ((1, 1, "m"), (0, 2, "m"), (0, 1, "n")):
        assert not torch.isclose(draw_shared_a(seed, round_, module, 8, 24), largest).any(1).all()


def test_a_has_the_spread_that_peft_draws():
    a = draw_shared_a(0, 1, "m", 40, 400)
    assert float(a.abs().max()) <= 400**-0.5
    assert abs(float(a.std()) * (3 * 400) ** 0.5 - 1) < 0.03


def test_the_sum_of_clients_of_unlike_ranks_is_one_pair_of_the_largest():
    draw, ranks = torch.Generator().manual_seed(0), [2, 4, 1]
    b = torch.randn(12, sum(ranks), generator=draw)
    a = torch.cat([draw_shared_a(0, 1, "m", rank, 24) for rank in ranks])
    folded_b, folded_a = fold_shared_a((b, a), ranks)
    assert folded_b.shape == (12, 4)
    assert is_close(folded_b.double() @ folded_a.double(), b.double() @ a.double(), 1e-5)
