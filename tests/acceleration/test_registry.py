"""Which accelerations a run gets."""

import pytest
from helpers.accelerated import FakeClient, have_equal_bits
from helpers.steps import assert_close, step

from fedpeft import acceleration
from fedpeft.acceleration import (
    ALWAYS_ON,
    ON_REQUEST,
    can_checkpoint,
    make_accelerations,
    optimise_forward_,
    require_checkpointing,
)
from fedpeft.acceleration.base import Acceleration
from fedpeft.errors import UserError


class Recorded(Acceleration):
    """Remembers its options and the models that it was installed in."""

    def __init__(self, **options):
        self.options, self.models = options, []

    def install_(self, model):
        self.models.append(model)


def test_those_that_are_always_on_come_without_a_request():
    assert [type(one) for one in make_accelerations()] == list(ALWAYS_ON)
    assert [type(one) for one in make_accelerations({})] == list(ALWAYS_ON)


def test_a_request_is_added_with_its_options(monkeypatch):
    monkeypatch.setitem(ON_REQUEST, "recorded", Recorded)
    *others, recorded = make_accelerations({"recorded": {"limit": 3, "folder": None}})
    assert [type(one) for one in others] == list(ALWAYS_ON)
    assert type(recorded) is Recorded and recorded.options == {"limit": 3, "folder": None}


def test_each_call_makes_its_own(monkeypatch):
    monkeypatch.setitem(ON_REQUEST, "recorded", Recorded)
    assert make_accelerations({"recorded": {}})[-1] is not make_accelerations({"recorded": {}})[-1]


def test_an_unknown_key_is_named_with_those_that_are_known(monkeypatch):
    monkeypatch.setitem(ON_REQUEST, "recorded", Recorded)
    with pytest.raises(UserError, match=r"suffix_cache: no such acceleration is installed; known: .*recorded"):
        make_accelerations({"recorded": {}, "suffix_cache": {}})
    monkeypatch.setattr(acceleration, "ON_REQUEST", {})
    with pytest.raises(UserError, match="known: none"):
        make_accelerations({"prefix_cache": {}})


def test_a_client_is_not_left_without_the_checkpointing_that_it_was_given():
    """It would take more memory than it has, and nobody would know why."""

    class Provided(Acceleration):
        provides_checkpointing = True

    without, given = FakeClient(), FakeClient(uses_checkpointing=True)
    assert can_checkpoint([Acceleration(), Provided()]) and not can_checkpoint([Acceleration()])
    require_checkpointing([Acceleration()], [without])
    require_checkpointing([Acceleration(), Provided()], [without, given])
    with pytest.raises(UserError, match="a client was given checkpointing, which is not installed"):
        require_checkpointing([Acceleration()], [without, given])


def test_a_forward_is_optimised_by_all_that_are_always_on(monkeypatch, build):
    made = []

    class First(Recorded):
        def __init__(self):
            super().__init__()
            made.append(self)

    class Second(First):
        pass

    monkeypatch.setattr(acceleration, "ALWAYS_ON", (First, Second))
    model = build("lora", "bert")
    optimise_forward_(model)
    assert [(type(one), one.models) for one in made] == [(First, [model]), (Second, [model])]


@pytest.mark.parametrize("kind", ["lora", "masked", "reft"])
def test_an_optimised_forward_differs_by_rounding_only(kind, build, padded):
    model, batch = build(kind, "llama"), padded("left")
    expected = step(model, batch)
    optimise_forward_(model)
    once = step(model, batch)
    assert_close(once, expected, 2e-6)  # the head is float32
    optimise_forward_(model)  # a second time changes nothing
    assert have_equal_bits(step(model, batch), once)
