"""The table of adapter kinds: found by a model's tuner, and by the `kind` of options."""

from typing import get_args

import pytest
from peft import IA3Config, get_peft_model
from pydantic import TypeAdapter, ValidationError

from fedpeft.adapters import KINDS, AdapterOptions, LoraOptions, LoReftConfig, ReftOptions, is_head, make_lora_config
from fedpeft.adapters.kinds import find_kind
from fedpeft.resources import ClientResources

OPTIONS = TypeAdapter(AdapterOptions)


@pytest.mark.parametrize(("density", "name"), [(1.0, "lora"), (0.5, "lora"), (None, "loreft")])
def test_a_model_has_the_kind_of_its_tuner(density, name, tiny_classifier):
    plain = tiny_classifier("bert")
    config = LoReftConfig() if density is None else make_lora_config(plain, 2, 4, density=density)
    assert find_kind(get_peft_model(plain, config)).name == name


def test_another_tuner_is_refused_by_name(tiny):
    model = get_peft_model(tiny("bert"), IA3Config(target_modules=["query"], feedforward_modules=[]))
    with pytest.raises(ValueError, match=r"tuners LoraModel, LoReftModel, ExpertsModel\. Received: IA3Model$"):
        find_kind(model)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_is_whole(kind, tiny_classifier):
    """Its name is that of its options; they make a configuration of its tuner, whose tensors are no head's."""
    options = OPTIONS.validate_python({"kind": kind.name})
    assert type(options) is kind.options and options.kind == kind.name
    assert get_args(kind.options.model_fields["kind"].annotation) == (kind.name,)
    model = get_peft_model(plain := tiny_classifier("bert"), options.make_config(plain, ClientResources()))
    assert find_kind(model) is kind
    assert not is_head(f"base_model.model.backbone.encoder.layer.0.{kind.tuner.prefix}A.weight")


def test_kinds_differ_in_name_and_tuner():
    assert len({kind.name for kind in KINDS}) == len({kind.tuner for kind in KINDS}) == len(KINDS)


def test_options_are_told_apart_by_kind():
    assert OPTIONS.validate_python({"r": 3}) == LoraOptions(r=3)
    assert OPTIONS.validate_python({"kind": "lora", "alpha": 5}) == LoraOptions(alpha=5)
    assert OPTIONS.validate_python({"kind": "loreft", "positions": "f3"}) == ReftOptions(positions="f3")
    assert OPTIONS.validate_python(ReftOptions(r=2)) == ReftOptions(r=2)
    assert OPTIONS.validate_json('{"kind": "loreft"}') == ReftOptions()


@pytest.mark.parametrize("value", [{"kind": "prefix"}, {"kind": None}, {"kind": "lora", "positions": "f3"}, 3, None])
def test_other_options_are_refused(value):
    with pytest.raises(ValidationError):
        OPTIONS.validate_python(value)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValidationError, match="kind: use one of lora, loreft, experts"):
        OPTIONS.validate_python({"kind": "prefix"})
