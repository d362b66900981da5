"""Steps of an adapted model under a prefix cache."""

from fedpeft.acceleration.frozen_blocks import count_frozen_blocks
from helpers.steps import LABELS, step


def enable_cache(cache, model, batches=None):
    """Context manager in which the frozen blocks of an `AdaptedModel` return states that `cache` stores."""
    return cache.enabled(model.base, count_frozen_blocks(model.base), batches or {})


def cached_step(model, cache, batch, labels=LABELS, batches=None):
    """A step under the cache; `batches` are the fixed batches of its sequences."""
    with enable_cache(cache, model, batches):
        return step(model, batch, labels)


def split_rows(batch):
    """The rows of a batch one by one, without their padding."""
    rows = [ids[mask != 0].unsqueeze(0) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    return [{"input_ids": row, "attention_mask": row.new_ones(row.shape)} for row in rows]


def list_token_ids(batch):
    """The token ids of each row, without padding."""
    return [tuple(row["input_ids"][0].tolist()) for row in split_rows(batch)]
