"""The LoReFT options of an experiment and the configuration that a client's resources make of them."""

import pytest
from pydantic import ValidationError

from fedpeft.adapters import LoReftConfig, ReftOptions
from fedpeft.resources import ClientResources


def test_every_option_reaches_the_configuration(tiny_classifier):
    options = ReftOptions(r=3, layers=[0, 2], positions="f2+l1", tied=True, variant="direft")
    config = options.make_config(tiny_classifier("bert"), ClientResources())
    assert config == LoReftConfig(
        r=3, layers=[0, 2], positions="f2+l1", tied=True, variant="direft", modules_to_save=["classifier"]
    )


def test_a_language_model_has_no_classifier_to_save(tiny):
    assert ReftOptions().make_config(tiny("llama"), ClientResources()).modules_to_save is None


@pytest.mark.parametrize(("given", "r"), [(None, 3), (7, 3), (3, 3), (2, 2), (1, 1)])
def test_the_clients_layers_replace_those_of_the_options_and_its_rank_bounds_theirs(tiny, given, r):
    config = ReftOptions(r=3, layers=[0]).make_config(tiny("bert"), ClientResources(rank=given, layers=(1, 2)))
    assert (config.layers, config.r) == ((1, 2), r)


@pytest.mark.parametrize("options", [{"r": 0}, {"layers": "some"}, {"variant": "reft"}, {"alpha": 4}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        ReftOptions(**options)


def test_wrong_positions_are_refused_with_what_to_write():
    with pytest.raises(ValidationError, match=r"write 'f7\+l7', 'f3', 'l1' or 'all'. Received: 'first'"):
        ReftOptions(positions="first")
