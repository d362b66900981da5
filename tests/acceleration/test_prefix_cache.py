"""The frozen-prefix cache: the same model, computed once below what is trained."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.accelerated import FakeClient, have_equal_bits, record_attention
from helpers.caching import cached_step, enable_cache, list_token_ids, split_rows
from helpers.steps import LABELS, assert_close, step

from fedpeft.acceleration.prefix_cache import BATCH_SIZE, PrefixCache
from fedpeft.acceleration.prefix_states import PrefixStates, make_fixed_batches
from fedpeft.errors import UserError

ARCHITECTURES = ("bert", "roberta", "mpnet", "llama", "qwen2", "qwen3", "mistral", "gpt2")
TOLERANCE = 2e-6  # the head is float32
MIB = 2**20


# ---- the same results


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["lora", "reft", "masked"])
def test_logits_and_gradients_are_those_without_a_cache(kind, architecture, side, build, padded):
    model, batch, cache = build(kind, architecture, [1, 2]), padded(side), PrefixCache(1)
    plain = step(model, batch)
    assert all(plain[name].any() for name in model.names)
    first, second = cached_step(model, cache, batch), cached_step(model, cache, batch)
    assert_close(first, plain, TOLERANCE)
    assert have_equal_bits(first, second)
    assert have_equal_bits(plain, step(model, batch))  # nothing of the cache is left
    assert (cache.stats.sequences, cache.stats.computed, cache.stats.looked_up) == (3, 3, 6)


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "llama", "gpt2"])
@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_a_single_row_without_padding_has_the_bits_of_no_cache(kind, architecture, build, padded):
    model, cache = build(kind, architecture, [2], dtype=torch.float32), PrefixCache(1)
    for row in split_rows(padded()):  # the same products on the same shapes
        assert have_equal_bits(cached_step(model, cache, row, LABELS[:1]), step(model, row, LABELS[:1]))


def test_the_batch_that_comes_first_does_not_change_a_bit(build, padded):
    model, batch = build("lora", "bert", [2], dtype=torch.float32), padded()
    alone, together, left = PrefixCache(1), PrefixCache(1), PrefixCache(1)
    for row in reversed(split_rows(batch)):
        cached_step(model, alone, row, LABELS[:1])
    cached_step(model, left, padded("left"))
    expected = cached_step(model, together, batch)
    for cache in (alone, left):
        assert have_equal_bits(cached_step(model, cache, batch), expected)
        assert cache.stats.computed == 3


def test_the_order_of_requests_does_not_change_a_bit_of_a_fixed_batch(build, padded):
    model, batch = build("lora", "bert", [2], dtype=torch.float32), padded()
    batches = make_fixed_batches(list_token_ids(batch), 16)
    together, alone = PrefixCache(1), PrefixCache(1)
    expected = cached_step(model, together, batch, batches=batches)
    for row in reversed(split_rows(batch)):
        cached_step(model, alone, row, LABELS[:1], batches)
    assert alone.stats.computed == 3
    assert have_equal_bits(cached_step(model, alone, batch, batches=batches), expected)
    full = PrefixCache(600 / MIB)  # room for one sequence
    for _ in range(2):
        assert have_equal_bits(cached_step(model, full, batch, batches=batches), expected)
    assert full.stats.not_stored > 0


def test_float32_differs_by_rounding_only(build, padded):
    model, batch = build("reft", "bert", [1, 2], dtype=torch.float32), padded()
    assert_close(cached_step(model, PrefixCache(1), batch), step(model, batch), 1e-4)


def test_training_after_evaluation_in_inference_mode(build, padded):
    model, batch, cache = build("reft", "llama", [1]), padded(), PrefixCache(1)
    with torch.inference_mode(), enable_cache(cache, model):
        model.model(**{name: tensor.clone() for name, tensor in batch.items()})
    assert not any(entry.states.is_inference() for entry in cache._states.values())
    assert_close(cached_step(model, cache, batch), step(model, batch), TOLERANCE)
    assert cache.stats.computed == 3


def test_frozen_deltas_and_trained_values_do_not_reach_below(build, factors, padded):
    model, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    before = cached_step(model, cache, batch)
    model.set_frozen_delta(factors(model, 2))
    model.write({name: tensor * 1.5 for name, tensor in model.read().items()})
    after = cached_step(model, cache, batch)
    assert_close(after, step(model, batch), TOLERANCE)
    assert (after["logits"] - before["logits"]).norm() > 1e-3 * before["logits"].norm()
    assert cache.stats.computed == 3


# ---- for a client


def test_a_clients_examples_are_computed_in_fixed_batches_of_one_split(build, padded):
    model, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    long, middle, short = list_token_ids(batch)
    client = FakeClient(splits=([long, (5, 6)], [(5, 6), middle, short]))  # (5, 6) is in two: it is of the first
    runs = record_attention(model)
    with cache.apply(model, client):
        results = step(model, batch)
    assert runs == [0, 1] * 2 + [2]  # each split at once, then the batch
    assert (cache.stats.sequences, cache.stats.computed) == (4, 4)
    assert_close(results, step(model, batch), TOLERANCE)


def test_a_fixed_batch_has_at_most_16_examples_and_is_made_once(build):
    model, cache = build("lora", "bert", [2]), PrefixCache(1)
    client = FakeClient(splits=([(i, i) for i in range(3, 3 + BATCH_SIZE + 1)],))
    for _ in range(2):
        with cache.apply(model, client):
            pass
    batches = cache._batches[client]
    assert sorted(len(batch.sequences) for batch in set(batches.values())) == [1, 16]
    client.splits = ()
    with cache.apply(model, client):
        pass
    assert cache._batches[client] is batches


def test_it_is_useful_where_a_block_is_frozen(build):
    cache = PrefixCache(1)
    assert cache.is_useful(build("lora", "bert", [1])) and cache.is_useful(build("reft", "bert", [0]))
    assert not cache.is_useful(build("lora", "bert"))


def test_without_frozen_blocks_it_is_off_and_says_so_once(build, padded, caplog):
    model, batch, cache = build("lora", "bert"), padded(), PrefixCache(1)
    client, expected = FakeClient(splits=([*list_token_ids(batch)],)), step(model, batch)
    with caplog.at_level(logging.INFO, "fedpeft"):
        for _ in range(2):
            with cache.apply(model, client):
                assert have_equal_bits(step(model, batch), expected)
    assert [record.message for record in caplog.records] == [
        "the prefix cache is off for an adapter: nothing lies below the first block it touches"
    ]
    assert cache.stats.looked_up == 0


def test_trained_blocks_are_refused(tiny_classifier):
    with pytest.raises(ValueError, match=r"layer\.0.* is trained"), PrefixCache(1).enabled(tiny_classifier("bert"), 1):
        pass


# ---- several models


def test_models_share_states_where_their_prefixes_are_equal(build, padded):
    batch, cache = padded(), PrefixCache(1)
    model = build("lora", "bert", [2])
    cached_step(model, cache, batch)
    loaded_again = build("reft", "bert", [1, 2])
    for other in (model.clone(), build("masked", "bert", [2]), loaded_again):
        assert_close(cached_step(other, cache, batch), step(other, batch), TOLERANCE)
    assert cache.stats.sequences == 3


def test_models_with_other_prefixes_share_no_states(build, padded):
    batch, cache = padded(), PrefixCache(1)
    cached_step(build("lora", "bert", [2]), cache, batch)
    shallower, changed = build("lora", "bert", [1, 2]), build("lora", "bert", [2])
    embedding = changed.base.backbone.embeddings.word_embeddings.weight
    with torch.no_grad():
        embedding[5:].mul_(1.1)
    others = [(shallower, TOLERANCE), (changed, TOLERANCE), (build("lora", "bert", [2], dtype=torch.float32), 1e-4)]
    for i, (other, tolerance) in enumerate(others):
        assert_close(cached_step(other, cache, batch), step(other, batch), tolerance)
        assert cache.stats.sequences == 6 + 3 * i
    with torch.no_grad():  # a tensor that is written to is another one from then on
        embedding.mul_(1.1)
    assert_close(cached_step(changed, cache, batch), step(changed, batch), TOLERANCE)
    assert cache.stats.sequences == 15


def test_several_threads_at_once_give_the_bits_of_one(build):
    models = [build("lora", "bert", [2], dtype=torch.float32)]
    models += [models[0].clone() for _ in range(3)]
    generator = torch.Generator().manual_seed(7)
    batches = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for ids in torch.randint(3, 60, (12, 3, 7), generator=generator)
    ]

    def work(model, cache, order):
        with enable_cache(cache, model):
            return {i: step(model, batches[i]) for i in order}

    expected = work(models[0], PrefixCache(1), range(12))
    shared = PrefixCache(1)
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        orders = [range(12), range(11, -1, -1), [*range(6, 12), *range(6)], range(12)]
        results = list(pool.map(work, models, [shared] * 4, orders))
    assert all(have_equal_bits(result[i], expected[i]) for result in results for i in range(12))
    assert shared.stats.sequences == 36 and shared.stats.looked_up == 144


# ---- the limit, the dtype, the folder


def test_a_full_cache_keeps_what_it_has_and_changes_no_bit(build, padded, caplog):
    model, batch = build("lora", "bert", [2], dtype=torch.float32), padded()
    size = 12 * 32 * 4  # 12 of the batch's 16 tokens, 32 wide
    small = PrefixCache(size / MIB)
    expected = cached_step(model, PrefixCache(1), batch)
    for _ in range(2):
        assert have_equal_bits(cached_step(model, small, batch), expected)
    stats = small.stats
    assert (stats.sequences, stats.used_bytes, stats.limit_bytes) == (2, size, size)
    assert (stats.looked_up, stats.computed, stats.not_stored) == (6, 4, 2)
    assert str(stats) == (
        "2 sequences in 0.0 of 0.0 MiB; 6 looked up, 4 computed, 2 of them not stored for lack of room"
    )
    assert [record.message for record in caplog.records] == [
        "the prefix cache is full at 0 MiB: raise its limit or remove it"
    ]


def test_bfloat16_takes_half_and_rounds(build, padded):
    model, batch = build("lora", "llama", [2], dtype=torch.float32), padded()
    exact, half = PrefixCache(1), PrefixCache(1, "bfloat16")
    expected, rounded = cached_step(model, exact, batch), cached_step(model, half, batch)
    assert half.stats.used_bytes * 2 == exact.stats.used_bytes
    assert_close({"logits": rounded["logits"]}, {"logits": expected["logits"]}, 0.03)
    assert not torch.equal(rounded["logits"], expected["logits"])
    assert have_equal_bits(cached_step(model, half, batch), rounded)
    without_room = PrefixCache(1e-5, "bfloat16")  # rounds all the same
    assert have_equal_bits(cached_step(model, without_room, batch), rounded)
    assert rounded["logits"].dtype == torch.float32


def test_states_begin_at_multiples_of_64_bytes():
    cache = PrefixCache(1)
    cache._store(b"first", PrefixStates(torch.zeros(3, 3), torch.float32, 0))
    assert cache.stats.used_bytes == 64
    cache._store(b"second", PrefixStates(torch.zeros(17, 1), torch.float32, 0))
    assert cache.stats.used_bytes == 192


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_folder_instead_of_memory(dtype, build, padded, tmp_path):
    model, batch = build("reft", "gpt2", [1], dtype=torch.float32), padded()
    cache = PrefixCache(0.01, dtype, str(tmp_path))
    expected = cached_step(model, PrefixCache(1, dtype), batch)
    for _ in range(2):
        assert have_equal_bits(cached_step(model, cache, batch), expected)
    assert (cache.stats.sequences, cache.stats.computed) == (3, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_costs_time_and_no_bit(build, padded, tmp_path, caplog, monkeypatch):
    model, batch = build("reft", "gpt2", [1], dtype=torch.float32), padded()
    expected = cached_step(model, PrefixCache(1), batch)
    cache = PrefixCache(0.01, folder=str(tmp_path))
    write = cache._file.write
    writes = []

    def write_once(tensor, offset):
        writes.append(offset)
        if len(writes) > 1:
            raise OSError(28, "No space left on device")
        return write(tensor, offset)

    monkeypatch.setattr(cache._file, "write", write_once)
    for _ in range(2):
        assert have_equal_bits(cached_step(model, cache, batch), expected)
    assert cache.stats.sequences == 1 and cache.stats.not_stored == 4
    assert len(writes) == 2, "it is not tried again"
    assert "stores no more than 1 sequences: [Errno 28] No space left on device" in caplog.text


def test_mistakes_of_a_user(tmp_path):
    for limit in (0, -1, float("nan")):
        with pytest.raises(UserError, match=rf"positive number of MiB\. Received: {limit}"):
            PrefixCache(limit)
    with pytest.raises(UserError, match=r"the dtype is one of .*bfloat16.*, or None\. Received: 'int3'"):
        PrefixCache(1, "int3")
    with pytest.raises(UserError, match="the folder does not exist"):
        PrefixCache(1, folder=str(tmp_path / "none"))
    with pytest.raises(UserError, match="MiB free, the limit is 1000000000000 MiB"):
        PrefixCache(1e12, folder=str(tmp_path))
