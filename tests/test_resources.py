from fedpeft.resources import ClientResources


def test_what_is_left_to_the_method_is_not_given():
    assert ClientResources().list_given() == []
    assert ClientResources(2, (1,), 0.5, 4, True).list_given() == [
        "rank", "layers", "density", "micro_batch", "checkpointing"
    ]  # fmt: skip
    assert ClientResources(rank=1, density=1.0).list_given() == ["rank"]
