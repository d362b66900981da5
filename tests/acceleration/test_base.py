"""The default acceleration, which changes nothing."""

from helpers.accelerated import FakeClient, get_blocks, have_equal_bits
from helpers.steps import step

from fedpeft.acceleration.base import Acceleration


def test_the_defaults_change_nothing(build, padded):
    model, batch, acceleration = build("lora", "bert"), padded(), Acceleration()
    forwards = [block.forward for block in get_blocks(model)]
    expected = step(model, batch)
    acceleration.install_(model)
    assert [block.forward for block in get_blocks(model)] == forwards
    with acceleration.apply(model, FakeClient(uses_checkpointing=True)):
        assert have_equal_bits(step(model, batch), expected)


def test_an_acceleration_is_useful_unless_it_says_otherwise(build):
    assert Acceleration().is_useful(build("lora", "bert")) is True
