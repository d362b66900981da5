"""The LoRA options of an experiment and the configuration that a client's resources make of them."""

import pytest
from peft import LoraConfig
from pydantic import ValidationError

from fedpeft.adapters import LoraOptions, MaskedLoraConfig
from fedpeft.resources import ClientResources


@pytest.fixture
def make(tiny_classifier):
    """make(options, resources) -> the PEFT configuration for a tiny BERT of three blocks."""

    def build(options, resources=None, **arguments):
        return options.make_config(tiny_classifier("bert"), resources or ClientResources(), **arguments)

    return build


def test_the_options_alone(make):
    config = make(LoraOptions(r=4, alpha=6, layers=[0, 2], targets=["query"]))
    assert type(config) is LoraConfig
    assert (config.r, config.lora_alpha, config.modules_to_save) == (4, 6, ["classifier"])
    assert "(0|2)" in config.target_modules and "query" in config.target_modules
    assert "value" not in config.target_modules


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_another_rank_keeps_the_scale(rank, make):
    options = LoraOptions(r=4, alpha=6)
    assert options.scale == 1.5
    config = make(options, ClientResources(rank=rank))
    assert config.r == rank and config.lora_alpha / config.r == options.scale


def test_the_clients_layers_replace_those_of_the_options(make):
    assert "(1)" in make(LoraOptions(layers=[0, 2]), ClientResources(layers=(1,))).target_modules


def test_density_applies_where_masks_are_asked_for(make):
    resources = ClientResources(density=0.25)
    assert type(make(LoraOptions(), resources)) is LoraConfig
    config = make(LoraOptions(), resources, masked=True)
    assert isinstance(config, MaskedLoraConfig) and config.density == 0.25
    assert type(make(LoraOptions(), masked=True)) is LoraConfig, "every row trains: plain LoRA"


@pytest.mark.parametrize("options", [{"r": 0}, {"alpha": 0}, {"layers": "some"}, {"targets": "query"}, {"rank": 4}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        LoraOptions(**options)
