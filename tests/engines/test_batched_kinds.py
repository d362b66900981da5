"""Kinds of adapter that the batched engine has no stacked form for: they train as in the local engine."""

import logging

import pytest
from helpers.engines import LIKE, LORA, built, classifier, largest_difference, made, rounds
from helpers.ia3_kind import Ia3Options, use_ia3
from helpers.tasks import make_classification

from fedpeft.methods import find_method


class WithIa3(find_method("fedit")):
    """The mean of IA3's scales."""

    def adapter(self, model, client):
        return Ia3Options().make_config(model, client.resources)


def test_clients_with_another_kind_train_alone_and_their_adapters_change(caplog):
    method, backbone, task = WithIa3(made("fedit", **LORA).options), classifier(), make_classification()
    with use_ia3(), caplog.at_level(logging.INFO):
        expected = rounds(method, *built(method, backbone, task, LIKE), count=1)
        actual = rounds(method, *built(method, backbone, task, LIKE, max_clients=5), count=1)
    assert largest_difference(actual, expected) == 0.0
    assert "c0 trains alone: its kind of adapter has no stacked form" in caplog.text


@pytest.mark.parametrize("name", ["fedalt", "fedlease", "feddpa_t", "fed_sb"])
def test_clients_with_several_lora_or_a_core_train_as_in_the_local_engine(name, caplog):
    method, backbone, task = made(name, adapter={"r": 2, "alpha": 4}), classifier(), make_classification()
    with caplog.at_level(logging.INFO):
        expected = rounds(method, *built(method, backbone, task, LIKE), count=2)
        actual = rounds(method, *built(method, backbone, task, LIKE, max_clients=5), count=2)
    assert largest_difference(actual, expected) == 0.0
    assert "c0 trains alone" in caplog.text
