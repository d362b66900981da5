"""A prefix is known by what it computes: equal for copies, another for any change below, the same for one above."""

import copy

import pytest
import torch

from fedpeft.acceleration.prefix_identity import PrefixIdentities


@pytest.fixture
def model(tiny_classifier):
    return tiny_classifier("bert").requires_grad_(False)


def test_copies_of_one_backbone_are_one_prefix(model):
    identities = PrefixIdentities()
    assert identities.identify(model, 2) == identities.identify(copy.deepcopy(model), 2)
    assert identities.identify(model, 2) == PrefixIdentities().identify(model, 2)
    assert identities.identify(model, 1) != identities.identify(model, 2)


@pytest.mark.parametrize(
    ("name", "is_below"),
    [
        ("backbone.embeddings.word_embeddings.weight", True),
        ("backbone.encoder.layer.1.output.dense.bias", True),
        ("backbone.encoder.layer.2.output.dense.bias", False),
    ],
)
def test_a_value_that_is_written_counts_where_it_is_below(name, is_below, model):
    identities = PrefixIdentities()
    before = identities.identify(model, 2)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0].add_(1.0)
    assert (identities.identify(model, 2) != before) == is_below


def test_the_configuration_and_the_number_of_threads_count(model):
    identities = PrefixIdentities()
    before = identities.identify(model, 1)
    torch.set_num_threads(2)
    assert identities.identify(model, 1) != before
    torch.set_num_threads(1)
    model.config.hidden_act = "relu"
    assert identities.identify(model, 1) != before


def test_a_trained_parameter_below_is_refused_and_one_above_is_not(model):
    model.backbone.encoder.layer[1].requires_grad_(True)
    PrefixIdentities().identify(model, 1)
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\..* is trained"):
        PrefixIdentities().identify(model, 2)
