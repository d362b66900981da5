"""Accelerations as the local engine installs and applies them. Each test is skipped where its own has been deleted."""

import pytest
from helpers.engines import EXAMPLES, LORA, built, classifier, largest_difference, made, rounds
from helpers.tasks import make_classification

from fedpeft.acceleration import ALWAYS_ON
from fedpeft.resources import ClientResources

RESOURCES = [ClientResources()] * 4 + [ClientResources(micro_batch=2)]


def record_shapes(backbone):
    """A list that grows by (rows, tokens) whenever a first block runs, in clones too."""
    shapes = []
    dense = backbone.backbone.encoder.layer[0].intermediate.dense
    dense.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[:2])))
    return shapes


def train(accelerations, resources, layers="all"):
    """What two rounds give, and the shapes that the first block saw; None stands for the engine's own accelerations."""
    method = made("fedit", adapter=LORA["adapter"] | {"layers": layers})
    backbone = classifier()
    shapes = record_shapes(backbone)
    engine, state = built(method, backbone, make_classification(), resources)
    if accelerations is not None:
        engine.accelerations = accelerations
    return rounds(method, engine, state), shapes


def test_padding_is_left_out():
    padding_free = pytest.importorskip("fedpeft.acceleration.padding_free").PaddingFree()
    results, shapes = train((padding_free,), RESOURCES)
    expected, with_padding = train((), RESOURCES)
    assert any(rows == 1 and tokens > 12 for rows, tokens in shapes)  # no example has more than 12
    assert not any(rows == 1 and tokens > 12 for rows, tokens in with_padding)
    assert largest_difference(results, expected) < 1e-6


def test_a_cache_is_filled_with_examples_of_similar_length_together():
    cache = pytest.importorskip("fedpeft.acceleration.prefix_cache").PrefixCache(1)
    results, shapes = train((cache,), RESOURCES, layers=[1])
    expected, _ = train((), RESOURCES, layers=[1])
    assert largest_difference(results, expected) < 1e-6
    assert cache.stats.sequences == cache.stats.computed == sum(EXAMPLES)
    assert sorted(rows for rows, _ in shapes) == [3, 4, 8, 9, 13]  # each client's examples at once


def test_blocks_run_again_for_clients_that_were_given_checkpointing():
    checkpointing = pytest.importorskip("fedpeft.acceleration.checkpointing").Checkpointing()
    results, shapes = train((checkpointing,), [ClientResources(checkpointing=True), *RESOURCES[1:]])
    expected, without = train((), RESOURCES)
    assert len(without) < len(shapes) < 2 * len(without)  # one of five clients
    assert largest_difference(results, expected) == 0.0


def test_an_engine_has_those_that_are_always_on():
    engine, _ = built(made("fedit", **LORA), classifier(), make_classification(), RESOURCES)
    engine.close()
    assert [type(acceleration) for acceleration in engine.accelerations] == list(ALWAYS_ON)


def test_all_of_them_give_the_results_of_none():
    results, _ = train(None, RESOURCES)
    expected, _ = train((), RESOURCES)
    assert largest_difference(results, expected) < 1e-6
