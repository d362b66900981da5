"""The frozen-prefix cache: the same model, computed once below what is trained."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.steps import LABELS, assert_close, step
from peft import LoraConfig, get_peft_model

from fedpeft.acceleration import make_fixed_batches, optimise_forward_
from fedpeft.acceleration.checkpointing import set_checkpointing_
from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.adapters import AdaptedModel, LoReftConfig, is_head
from fedpeft.backbones.blocks import find_blocks, unwrap_block
from fedpeft.errors import UserError

ARCHITECTURES = ("bert", "roberta", "mpnet", "llama", "qwen2", "qwen3", "mistral", "gpt2")
SIZES = (11, 4, 1)


@pytest.fixture
def build(lora_slot, factors, tiny_classifier, stir):
    """build("reft", "bert", [1, 2]) -> a slot away from its start; float64 below the head unless told."""

    def make(kind, architecture, layers, dtype=torch.float64):
        if kind == "reft":
            plain = tiny_classifier(architecture)
            plain.backbone.to(dtype)
            config = LoReftConfig(r=3, layers=layers, positions="f2+l3", modules_to_save=["classifier"])
            model = get_peft_model(plain, config)
            stir(model)
            return AdaptedModel(model)
        slot = lora_slot(architecture, layers=layers, dtype=dtype, density=0.3 if kind == "masked" else 1.0)
        slot.set_frozen_delta(factors(slot, 3) if kind == "masked" else {})
        return slot

    return make


def cached_step(slot, cache, batch, labels=LABELS):
    with slot.cached(cache):
        return step(slot, batch, labels)


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows_of(batch, sizes=SIZES):
    """The batch's rows one by one, without padding."""
    real = batch["attention_mask"] != 0
    ids = [batch["input_ids"][i][real[i]].unsqueeze(0) for i in range(len(sizes))]
    return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]


def ran(slot):
    """A list that grows by a block's number whenever that block's attention runs."""
    blocks, runs = find_blocks(slot.model.get_base_model())[1], []
    for i, block in enumerate(blocks):
        first = next(m for m in unwrap_block(block).modules() if "Attention" in type(m).__name__)
        first.register_forward_hook(lambda *_, i=i: runs.append(i))
    return runs


# ---- the same results


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["lora", "reft", "masked"])
def test_logits_and_gradients_are_those_without_a_cache(kind, architecture, side, build, padded):
    slot, batch, cache = build(kind, architecture, [1, 2]), padded(side), PrefixCache(1)
    plain = step(slot, batch)
    assert sum(bool(gradient.any()) for name, gradient in plain.items() if name in slot.names) == len(slot.names)
    first = cached_step(slot, cache, batch)
    again = cached_step(slot, cache, batch)
    assert_close(first, plain, 2e-6)  # the head is float32
    assert same_bits(first, again)
    assert same_bits(plain, step(slot, batch))  # nothing stays behind
    assert (cache.stats.rows, cache.stats.computed, cache.stats.looked_up) == (3, 3, 6)


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "llama", "gpt2"])
@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_a_row_without_padding_has_the_bits_of_no_cache(kind, architecture, build, padded):
    slot, cache = build(kind, architecture, [2], dtype=torch.float32), PrefixCache(1)
    for row in rows_of(padded()):
        assert same_bits(cached_step(slot, cache, row, LABELS[:1]), step(slot, row, LABELS[:1]))


def test_the_batch_that_comes_first_does_not_change_a_bit(build, padded):
    slot, batch = build("lora", "bert", [2], dtype=torch.float32), padded()
    alone, together, left = PrefixCache(1), PrefixCache(1), PrefixCache(1)
    for row in reversed(rows_of(batch)):
        cached_step(slot, alone, row, LABELS[:1])
    cached_step(slot, left, padded("left"))
    expected = cached_step(slot, together, batch)
    for cache in (alone, left):
        assert same_bits(cached_step(slot, cache, batch), expected)
        assert cache.stats.computed == 3


def test_float32_differs_from_no_cache_by_rounding_only(build, padded):
    slot, batch = build("reft", "bert", [1, 2], dtype=torch.float32), padded()
    assert_close(cached_step(slot, PrefixCache(1), batch), step(slot, batch), 1e-4)


@pytest.mark.parametrize("extra", ["token_type_ids", "position_ids"])
def test_other_inputs_of_a_token_count(extra, build, padded):
    slot, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    ids = batch["input_ids"]
    values = torch.arange(ids.shape[1]).expand_as(ids) + 3 if extra == "position_ids" else torch.ones_like(ids)
    plain, given = step(slot, batch), step(slot, batch | {extra: values})
    cached_step(slot, cache, batch)
    assert_close(cached_step(slot, cache, batch | {extra: values}), given, 2e-6)
    assert (given["logits"] - plain["logits"]).norm() > 1e-2 * plain["logits"].norm()
    assert cache.stats.rows == 6


class Watched(PrefixCache):
    """Remembers what it gave."""

    def states(self, keys, compute):
        self.given = super().states(keys, compute)
        return self.given


def test_training_after_evaluation_in_inference_mode(build, padded):
    slot, batch, cache = build("reft", "llama", [1]), padded(), Watched(1)
    with torch.inference_mode(), slot.cached(cache):
        slot.model(**{name: tensor.clone() for name, tensor in batch.items()})
    assert not any(row.states.is_inference() for row in cache.given)
    assert_close(cached_step(slot, cache, batch), step(slot, batch), 2e-6)
    assert cache.stats.computed == 3


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_checkpointing_goes_with_it(kind, inside, build, padded):
    slot, batch, cache = build(kind, "mpnet", [1, 2]), padded(), PrefixCache(1)
    expected, plain = cached_step(slot, cache, batch), step(slot, batch)
    if inside:
        with slot.cached(cache):
            set_checkpointing_(slot.base, True)
            found = step(slot, batch)
            set_checkpointing_(slot.base, False)
    else:
        set_checkpointing_(slot.base, True)
        found = cached_step(slot, cache, batch)
        set_checkpointing_(slot.base, False)
    assert same_bits(found, expected)
    assert same_bits(step(slot, batch), plain)


# ---- what is frozen, and what runs


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "llama", "gpt2"])
@pytest.mark.parametrize(
    ("kind", "layers", "frozen"),
    [
        ("lora", [1, 2], 1),
        ("lora", [2], 2),
        ("masked", [1], 1),
        ("reft", [1, 2], 2),
        ("reft", [0], 1),
        ("lora", [0, 2], 0),
    ],
)
def test_blocks_below_what_is_touched_run_once(kind, layers, frozen, architecture, build, padded):
    slot, batch, cache = build(kind, architecture, layers), padded(), PrefixCache(1)
    assert slot.frozen_blocks == frozen
    runs = ran(slot)
    cached_step(slot, cache, batch)
    assert runs == [*range(frozen)] * (3 if frozen else 0) + [*range(frozen, 3)]  # three rows, then the batch
    runs.clear()
    cached_step(slot, cache, batch)
    assert runs == [*range(frozen, 3)]


def test_merged_factors_and_trained_values_do_not_reach_below(build, factors, padded):
    slot, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    before = cached_step(slot, cache, batch)
    slot.set_frozen_delta(factors(slot, 2))
    slot.write({name: tensor * 1.5 for name, tensor in slot.read().items()})
    after = cached_step(slot, cache, batch)
    assert_close(after, step(slot, batch), 2e-6)
    assert (after["logits"] - before["logits"]).norm() > 1e-3 * before["logits"].norm()
    assert cache.stats.computed == 3


def test_only_the_head_trained(tiny_classifier, padded):
    config = LoraConfig(target_modules=["classifier"], r=2)
    slot, batch, cache = AdaptedModel(get_peft_model(tiny_classifier("bert"), config)), padded(), PrefixCache(1)
    assert slot.frozen_blocks == 3
    runs = ran(slot)
    for _ in range(2):
        with slot.cached(cache):
            slot.model(**batch)
    assert runs == [0, 1, 2] * 3


def test_an_adapter_in_front_of_the_blocks_leaves_nothing_frozen(tiny_classifier):
    config = LoraConfig(target_modules=r".*(word_embeddings|layer\.2\.output\.dense)", r=2)
    assert AdaptedModel(get_peft_model(tiny_classifier("bert"), config)).frozen_blocks == 0
    position_bias = LoraConfig(target_modules=r".*(relative_attention_bias|layer\.2\.output\.dense)", r=2)
    assert AdaptedModel(get_peft_model(tiny_classifier("mpnet"), position_bias)).frozen_blocks == 0


def test_without_frozen_blocks_it_is_off_and_says_so(build, padded, caplog):
    slot, batch, cache = build("lora", "bert", "all"), padded(), PrefixCache(1)
    with caplog.at_level(logging.INFO, "fedpeft"):
        assert same_bits(cached_step(slot, cache, batch), step(slot, batch))
        cached_step(slot, cache, batch)
    assert [record.message for record in caplog.records] == [
        "the prefix cache is off for an adapter: nothing lies below the first block it touches"
    ]
    assert cache.stats.looked_up == 0


# ---- calls that run as without a cache


def test_other_calls_run_as_without_a_cache(build, padded):
    slot, batch, cache = build("lora", "llama", [2]), padded("left"), PrefixCache(1)
    cached_step(slot, cache, batch)
    holed = batch | {"attention_mask": batch["attention_mask"].clone().index_fill_(1, torch.tensor([9]), 0)}
    with torch.no_grad():
        for given in (batch | {"output_hidden_states": True}, batch | {"use_cache": True}, holed):
            expected = slot.model(**given).logits
            with slot.cached(cache):
                assert torch.equal(slot.model(**given).logits, expected)
    assert cache.stats.looked_up == 3


def test_generation_with_a_key_value_cache_does_not_use_it(tiny, padded, stir):
    model = get_peft_model(tiny("llama"), LoReftConfig(r=3, layers=[1]))
    stir(model)
    slot, batch, cache = AdaptedModel(model), padded("left"), PrefixCache(1)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 1}
    expected = slot.model.generate(**batch, **options)
    with slot.cached(cache):
        slot.model(**batch)
        assert torch.equal(slot.model.generate(**batch, **options), expected)
    assert cache.stats.looked_up == 3


def test_a_failure_leaves_the_model_as_it_was(build, padded):
    slot, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    plain = step(slot, batch)
    with slot.cached(cache):
        cached = step(slot, batch)
        with pytest.raises(IndexError):
            slot.model(input_ids=torch.full((1, 4), 1000))
        assert same_bits(step(slot, batch), cached)
    with pytest.raises(IndexError), slot.cached(cache):
        slot.model(input_ids=torch.full((1, 4), 1000))
    assert same_bits(step(slot, batch), plain)


def test_trained_blocks_are_refused(tiny_classifier):
    with pytest.raises(ValueError, match=r"layer\.0.* is trained"), PrefixCache(1).enabled(tiny_classifier("bert"), 1):
        pass


# ---- who shares it


def test_slots_of_one_backbone_share_rows_and_others_do_not(build, tiny_classifier, padded):
    batch, cache = padded(), PrefixCache(1)
    slot = build("lora", "bert", [2])
    cached_step(slot, cache, batch)
    for other in (slot.clone(), build("masked", "bert", [2]), build("reft", "bert", [1, 2])):  # the last: loaded again
        assert_close(cached_step(other, cache, batch), step(other, batch), 2e-6)
    assert cache.stats.rows == 3
    deeper = build("lora", "bert", [1, 2])
    changed = build("lora", "bert", [2])
    with torch.no_grad():
        changed.model.get_base_model().backbone.embeddings.word_embeddings.weight[5:].mul_(1.1)
    for i, other in enumerate((deeper, changed, build("lora", "bert", [2], dtype=torch.float32))):
        assert_close(cached_step(other, cache, batch), step(other, batch), 1e-4 if i == 2 else 2e-6)
        assert cache.stats.rows == 6 + 3 * i
    with torch.no_grad():  # a tensor that is written to is another one from then on
        changed.model.get_base_model().backbone.embeddings.word_embeddings.weight.mul_(1.1)
    assert_close(cached_step(changed, cache, batch), step(changed, batch), 2e-6)
    assert cache.stats.rows == 15


def test_two_threads_at_once_give_the_bits_of_one(build):
    slots = [build("lora", "bert", [2], dtype=torch.float32)]
    slots += [slots[0].clone() for _ in range(3)]
    generator = torch.Generator().manual_seed(7)
    batches = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for ids in torch.randint(3, 60, (12, 3, 7), generator=generator)
    ]

    def work(slot, cache, order):
        with slot.cached(cache):
            return {i: step(slot, batches[i]) for i in order}

    expected = work(slots[0], PrefixCache(1), range(12))
    shared = PrefixCache(1)
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        orders = [range(12), range(11, -1, -1), [*range(6, 12), *range(6)], range(12)]
        results = list(pool.map(work, slots, [shared] * 4, orders))
    assert all(same_bits(result[i], expected[i]) for result in results for i in range(12))
    assert shared.use.rows == 36 and shared.use.looked_up == 144


# ---- rows in company


def tokens_of(batch):
    return [tuple(row["input_ids"][0].tolist()) for row in rows_of(batch)]


def step_in_company(slot, cache, batch, company, labels=LABELS):
    with slot.cached(cache, company):
        return step(slot, batch, labels)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("lean", [True, False])
def test_a_company_is_computed_at_once_and_gives_the_same(lean, architecture, side, build, padded):
    slot, batch, cache = build("reft", architecture, [1, 2]), padded(side), PrefixCache(1)
    plain = step(slot, batch)
    if lean:
        optimise_forward_(slot)
    runs = ran(slot)
    others = [(5, 6, 7), (8, 9)]
    company = make_fixed_batches([*tokens_of(batch), *others], 3)
    first = step_in_company(slot, cache, batch, company)
    assert_close(first, plain, 2e-6)
    assert runs == [0, 1] * 2 + [2]  # rows of 1, 2 and 3 tokens; rows of 4 and 11 tokens; the batch
    assert same_bits(step_in_company(slot, cache, batch, company), first)
    assert (cache.stats.rows, cache.stats.computed, cache.stats.looked_up) == (5, 5, 6)


def test_a_company_as_large_as_the_batch_has_its_own_padding(build, padded):
    slot, batch, cache = build("reft", "bert", [1, 2]), padded(), PrefixCache(1)
    plain = step(slot, batch)
    optimise_forward_(slot)
    rows = tokens_of(batch)
    mates = [(5, 6), (7, 8, 9), (10, 11, 12, 13)]
    for size, row in zip((11, 4, 1), rows, strict=True):  # (3, 11) as the batch, (3, 4), (3, 3)
        company = make_fixed_batches([row, *[mate[:size] for mate in mates[:2]]], 3)
        assert_close(step_in_company(slot, cache, batch, company), plain, 2e-6)


def test_who_asks_first_does_not_change_a_bit_of_a_company(build, padded):
    slot, batch = build("lora", "bert", [2], dtype=torch.float32), padded()
    company = make_fixed_batches(tokens_of(batch), 16)
    together, alone = PrefixCache(1), PrefixCache(1)
    expected = step_in_company(slot, together, batch, company)
    for row in reversed(rows_of(batch)):
        step_in_company(slot, alone, row, company, LABELS[:1])
    assert alone.use.computed == 3
    assert same_bits(step_in_company(slot, alone, batch, company), expected)
    full = PrefixCache(600 / 2**20)  # room for one row
    for _ in range(2):
        assert same_bits(step_in_company(slot, full, batch, company), expected)
    assert full.use.not_stored > 0


def test_a_row_in_other_company_or_with_other_positions_is_another_row(build, padded):
    slot, batch, cache = build("lora", "bert", [2]), padded(), PrefixCache(1)
    rows = tokens_of(batch)
    ids = batch["input_ids"]
    positions = {"position_ids": torch.arange(ids.shape[1]).expand_as(ids) + 3}
    for company, more in (
        (make_fixed_batches(rows, 16), {}),
        (make_fixed_batches(rows[:2], 16), {}),
        (make_fixed_batches(rows, 16), positions),
    ):
        given = batch | more
        before = cache.stats.rows
        assert_close(step_in_company(slot, cache, given, company), step(slot, given), 2e-6)
        assert cache.stats.rows == before + 3


def test_companies_are_of_like_length_and_hold_a_row_once():
    found = make_fixed_batches([(1, 2, 3), (4,), (5, 6), (4,), (7, 8, 9, 10), (1, 2)], 2)
    assert {row: company.rows for row, company in found.items()} == {
        (4,): ((4,), (5, 6)),
        (5, 6): ((4,), (5, 6)),
        (1, 2): ((1, 2), (1, 2, 3)),
        (1, 2, 3): ((1, 2), (1, 2, 3)),
        (7, 8, 9, 10): ((7, 8, 9, 10),),
    }
    assert len({company.digest for company in found.values()}) == 3


# ---- the limit, the dtype, the folder


def test_a_full_cache_keeps_what_it_has_and_changes_no_bit(build, padded):
    slot, batch = build("lora", "bert", [2], dtype=torch.float32), padded()
    small = PrefixCache(12 * 32 * 4 / 2**20)  # 12 of the batch's 16 tokens, 32 wide
    expected = cached_step(slot, PrefixCache(1), batch)
    for _ in range(2):
        assert same_bits(cached_step(slot, small, batch), expected)
    assert (small.use.rows, small.use.used, small.use.computed, small.use.not_stored) == (2, 12 * 32 * 4, 4, 2)
    assert "2 rows in 0.0 of 0.0 MiB; 6 looked up, 4 computed, 2 of them not kept" in str(small.use)


def test_bfloat16_takes_half_and_rounds(build, padded):
    slot, batch = build("lora", "llama", [2], dtype=torch.float32), padded()
    exact, half = PrefixCache(1), PrefixCache(1, torch.bfloat16)
    expected, found = cached_step(slot, exact, batch), cached_step(slot, half, batch)
    assert half.use.used * 2 == exact.use.used
    assert_close({"logits": found["logits"]}, {"logits": expected["logits"]}, 0.03)
    assert not torch.equal(found["logits"], expected["logits"])
    assert same_bits(cached_step(slot, half, batch), found)
    assert same_bits(
        cached_step(slot, PrefixCache(1e-5, torch.bfloat16), batch), found
    )  # no room: rounded all the same
    assert found["logits"].dtype == torch.float32 and next(n for n in slot.names if is_head(n)) in found


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_folder_in_place_of_memory(dtype, build, padded, tmp_path):
    slot, batch = build("reft", "gpt2", [1], dtype=torch.float32), padded()
    cache = PrefixCache(0.01, dtype, tmp_path)
    expected = cached_step(slot, PrefixCache(1, dtype), batch)
    for _ in range(2):
        assert same_bits(cached_step(slot, cache, batch), expected)
    assert (cache.stats.rows, cache.stats.computed) == (3, 3)
    assert list(tmp_path.iterdir()) == []  # nameless: nothing to clear away


class Disk:
    """A file that takes `room` bytes in all and never more than 100 at a time."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def seek(self, at):
        self.file.seek(at)

    def write(self, data):
        taken = min(len(data), 100, self.room)
        if not taken:
            raise OSError(28, "No space left on device")
        self.room -= taken
        return self.file.write(data[:taken])


def test_a_disk_that_fills_up_costs_time_and_no_bit(build, padded, tmp_path, caplog):
    slot, batch = build("reft", "gpt2", [1], dtype=torch.float32), padded()
    expected = cached_step(slot, PrefixCache(1), batch)
    cache = PrefixCache(0.01, folder=tmp_path)
    cache._file._file = Disk(cache._file._file, room=10**6)
    for _ in range(2):
        assert same_bits(cached_step(slot, cache, batch), expected)
    assert cache.stats.rows == 3
    cache = PrefixCache(0.01, folder=tmp_path)
    cache._file._file = Disk(cache._file._file, room=1000)  # a part of a row
    for _ in range(2):
        assert same_bits(cached_step(slot, cache, batch), expected)
    assert cache.stats.rows < 3 and cache.stats.not_stored > 0
    assert "No space left on device" in caplog.text


def test_what_a_user_gets_wrong(tmp_path):
    with pytest.raises(UserError, match=r"positive number of MiB\. Received: 0"):
        PrefixCache(0)
    with pytest.raises(UserError, match="the folder is not there"):
        PrefixCache(1, folder=tmp_path / "none")
    with pytest.raises(UserError, match="MiB free, the limit is 1000000000000 MiB"):
        PrefixCache(1e12, folder=tmp_path)
