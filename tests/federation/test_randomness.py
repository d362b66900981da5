import torch

from fedpeft.federation.randomness import derived_seed, generator


def test_a_seed_is_fixed_by_its_purpose_on_every_machine():
    assert derived_seed(0, "select", 1) == 6854230765882567086
    assert derived_seed(0, "select", 1) != derived_seed(0, "select", 11) != derived_seed(0, "select", 1, "1")
    assert all(0 <= derived_seed(i, "x") < 2**63 for i in range(50))


def test_parts_of_a_purpose_do_not_run_together():
    assert derived_seed(1, "2", 3) != derived_seed(12, 3) and derived_seed(0, "ab") != derived_seed(0, "a", "b")


def test_generators_of_one_purpose_draw_alike_and_leave_torchs_own_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (torch.rand(4, generator=generator(0, name)) for name in ("a", "a", "b"))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
