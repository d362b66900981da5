"""Accelerations that are used together. Each test is skipped where one of those that it combines has been deleted."""

import pytest
import torch
from helpers.accelerated import have_equal_bits, record_shapes
from helpers.steps import LABELS, assert_close, step

TOKENS = 11 + 4 + 1  # real ones of `padded`
TOLERANCE = 2e-6  # the head is float32


@pytest.fixture
def set_checkpointing_():
    return pytest.importorskip("fedpeft.acceleration.checkpointing").set_checkpointing_


@pytest.fixture
def remove_padding_():
    return pytest.importorskip("fedpeft.acceleration.padding_free").remove_padding_


@pytest.fixture
def fuse_lora_():
    return pytest.importorskip("fedpeft.acceleration.fused_lora").fuse_lora_


@pytest.fixture
def cache():
    return pytest.importorskip("fedpeft.acceleration.prefix_cache").PrefixCache(1)


@pytest.fixture
def cached_step(cache):
    from helpers.caching import cached_step

    return cached_step


@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_padding_free_blocks_with_checkpointing_and_the_prefix_cache(
    kind, set_checkpointing_, remove_padding_, fuse_lora_, cache, cached_step, build, padded
):
    model, batch = build(kind, "llama", [1, 2]), padded("left")
    expected = step(model, batch)
    fuse_lora_(model.model)
    remove_padding_(model.base)
    set_checkpointing_(model.base, True)
    shapes = record_shapes(model)
    blocks_above = {"lora": 2, "reft": 1}[kind]  # those that have gradients
    assert_close(step(model, batch), expected, TOLERANCE)
    assert shapes == [(1, TOKENS)] * (3 + blocks_above)
    first = cached_step(model, cache, batch)
    shapes.clear()
    second = cached_step(model, cache, batch)
    assert shapes == [(1, TOKENS)] * 2 * blocks_above  # stored states lose their padding above the prefix
    assert_close(first, expected, TOLERANCE)
    assert have_equal_bits(first, second)
    assert (cache.stats.sequences, cache.stats.computed, cache.stats.looked_up) == (3, 3, 6)


def test_models_with_and_without_padding_share_stored_states(remove_padding_, cache, cached_step, build, padded):
    model, batch = build("lora", "bert", [2]), padded()
    without_padding = model.clone()
    remove_padding_(without_padding.base)
    shapes = record_shapes(without_padding)
    expected = cached_step(model, cache, batch)
    assert_close(cached_step(without_padding, cache, batch), expected, TOLERANCE)
    assert cache.stats.computed == 3
    assert set(shapes) == {(1, TOKENS)}


def test_checkpointing_before_and_after_padding_is_removed(set_checkpointing_, remove_padding_, build, padded):
    model, batch = build("lora", "bert"), padded()
    expected = step(model, batch)
    set_checkpointing_(model.base, True)
    remove_padding_(model.base)
    shapes = record_shapes(model)
    assert_close(step(model, batch), expected, TOLERANCE)
    assert shapes == [(1, TOKENS)] * 6  # every block twice
    shapes.clear()
    set_checkpointing_(model.base, False)
    assert_close(step(model, batch), expected, TOLERANCE)
    assert shapes == [(1, TOKENS)] * 3


def test_checkpointing_keeps_to_the_batch_of_its_forward(set_checkpointing_, remove_padding_, build, padded):
    model = build("reft", "bert")
    first, second = padded(), {name: tensor[[0, 2, 1]] for name, tensor in padded(seed=3).items()}

    def gradients():
        loss = model.model(**first, labels=LABELS).loss + model.model(**second, labels=LABELS).loss
        with torch.no_grad():
            model.model(**padded("left"))
        return dict(zip(model.names, torch.autograd.grad(loss, model.parameters()), strict=True))

    expected = gradients()
    remove_padding_(model.base)
    set_checkpointing_(model.base, True)
    assert_close(gradients(), expected, TOLERANCE)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_checkpointing_and_the_prefix_cache(kind, inside, set_checkpointing_, cache, cached_step, build, padded):
    from helpers.caching import enable_cache

    model, batch = build(kind, "mpnet", [1, 2]), padded()
    expected, plain = cached_step(model, cache, batch), step(model, batch)
    if inside:
        with enable_cache(cache, model):
            set_checkpointing_(model.base, True)
            results = step(model, batch)
            set_checkpointing_(model.base, False)
    else:
        set_checkpointing_(model.base, True)
        results = cached_step(model, cache, batch)
        set_checkpointing_(model.base, False)
    assert have_equal_bits(results, expected)
    assert have_equal_bits(step(model, batch), plain)


def test_fused_lora_and_checkpointing(fuse_lora_, set_checkpointing_, build, padded):
    model, batch = build("lora", "llama"), padded("left")
    fuse_lora_(model.model)
    expected = step(model, batch)
    set_checkpointing_(model.base, True)
    assert have_equal_bits(step(model, batch), expected)


@pytest.mark.parametrize("side", ["right", "left"])
def test_fixed_batches_are_computed_with_their_own_padding(remove_padding_, cache, cached_step, side, build, padded):
    from helpers.caching import list_token_ids

    from fedpeft.acceleration.prefix_states import make_fixed_batches

    model, batch = build("reft", "bert", [1, 2]), padded(side)
    expected = step(model, batch)
    remove_padding_(model.base)
    others = [(5, 6), (7, 8, 9)]
    for length, ids in zip((11, 4, 1), list_token_ids(batch), strict=True):  # (3, 11) as the batch; (3, 4); (3, 1)
        batches = make_fixed_batches([ids, *[other[:length] for other in others]], 3)
        assert_close(cached_step(model, cache, batch, batches=batches), expected, TOLERANCE)
