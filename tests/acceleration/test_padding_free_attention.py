"""Batches without padding, and attention over them."""

import weakref

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fedpeft.acceleration.forward_wrapper import get_original_attention
from fedpeft.acceleration.padding_free_attention import (
    BATCH_ARGUMENT,
    MIN_PADDING,
    PADDING_FREE_ATTENTION,
    PaddingFreeBatch,
    drop_padding,
    padding_free_attention,
    restore_padding,
)

IS_REAL = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)


@pytest.fixture
def batch():
    return PaddingFreeBatch.from_mask(IS_REAL)


def test_a_batch_without_enough_padding_keeps_it():
    is_real = torch.ones(4, 40, dtype=torch.bool)
    assert PaddingFreeBatch.from_mask(is_real) is None
    is_real[0, 40 - int(MIN_PADDING * 160) + 1 :] = False  # one token less than the minimum
    assert PaddingFreeBatch.from_mask(is_real) is None
    is_real[1, 39] = False
    assert PaddingFreeBatch.from_mask(is_real) is not None
    assert PaddingFreeBatch.from_mask(is_real[:1]) is None  # a single row
    is_real[2] = False  # attention in such a row would be over no token
    assert PaddingFreeBatch.from_mask(is_real) is None


def test_indices_say_where_each_token_is_and_which_token_each_position_has(batch):
    positions, tokens = batch.get_indices(torch.device("cpu"))
    assert positions.tolist() == [0, 1, 4, 5, 8]
    assert tokens[positions].tolist() == [0, 1, 2, 3, 4]
    assert tokens.shape == (9,) and bool(((tokens >= 0) & (tokens < 5)).all())  # finite values on padding, too
    on_meta = batch.get_indices(torch.device("meta"))  # blocks on another device get their own
    assert all(indices.device.type == "meta" for indices in on_meta)


def test_padding_is_dropped_and_restored_with_the_gradients_of_the_real_tokens(batch):
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(drop_padding(x, batch), x[IS_REAL].unsqueeze(0))
    assert torch.equal(restore_padding(drop_padding(x, batch), batch)[IS_REAL], x[IS_REAL])
    assert torch.autograd.gradcheck(lambda t: drop_padding(t, batch), x)
    tokens = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: restore_padding(t, batch)[IS_REAL], tokens)


def test_arguments_over_tokens_lose_their_padding_and_others_stay(batch):
    by_token = torch.arange(18).view(3, 3, 2)
    assert torch.equal(batch.drop_padding_of(by_token), by_token[IS_REAL].unsqueeze(0))
    ids = torch.arange(9).view(3, 3)
    assert batch.drop_padding_of(ids).tolist() == [[0, 1, 4, 5, 8]]
    shared = torch.tensor([[10, 11, 12]])  # positions that all rows share
    assert batch.drop_padding_of(shared).tolist() == [[10, 11, 11, 12, 12]]
    first, second = batch.drop_padding_of((by_token, ids))  # rotary embeddings come in pairs
    assert first.shape == (1, 5, 2) and second.shape == (1, 5)
    others = [torch.ones(3, 1, 3, 3), torch.ones(3, 4), torch.ones(2, 3), torch.ones(3), None, True, "text"]
    assert all(batch.drop_padding_of(value) is value for value in others)


def test_an_argument_that_all_blocks_share_is_converted_once(batch):
    ids = torch.arange(9).view(3, 3)
    assert batch.drop_padding_of(ids) is batch.drop_padding_of(ids)
    assert batch.drop_padding_of(ids.clone()) is not batch.drop_padding_of(ids)


def test_a_converted_argument_is_kept_so_that_no_other_gets_its_id(batch):
    ids = torch.arange(9).view(3, 3)
    original = weakref.ref(ids)
    batch.drop_padding_of(ids)
    del ids
    assert original() is not None


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_over_real_tokens_is_that_of_the_padded_batch(batch, is_causal):
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Module()
    module.is_causal = is_causal
    query, key, value = (
        torch.randn(3, 4, 3, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )  # (batch, heads, length, width)
    mask = IS_REAL[:, None, None, :].expand(3, 1, 3, 3)  # (batch, 1, queries, keys)
    mask = (mask & torch.ones(3, 3, dtype=torch.bool).tril()) if is_causal else mask
    expected, _ = sdpa_attention_forward(module, query, key, value, mask)  # (batch, length, heads, width)
    without_padding = [x.transpose(1, 2)[IS_REAL].unsqueeze(0).transpose(1, 2) for x in (query, key, value)]
    output, _ = padding_free_attention(module, *without_padding, mask, **{BATCH_ARGUMENT: batch})
    assert output.shape == (1, 5, 4, 8)
    torch.testing.assert_close(output[0], expected[IS_REAL])
    padded, _ = padding_free_attention(module, query, key, value, mask)  # no batch: nothing to restore
    assert torch.equal(padded[IS_REAL], expected[IS_REAL])


def test_transformers_and_other_accelerations_know_the_attention():
    assert AttentionInterface()[PADDING_FREE_ATTENTION] is padding_free_attention
    assert get_original_attention(PADDING_FREE_ATTENTION) == "sdpa"
