"""Kinds of task that put a head on an encoder: one output vector for each text or pair."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import Batch, Encoded, Padding, encode, make_batches
from fedpeft.tasks.examples import Example
from fedpeft.tasks.kinds.base import TaskKind

BATCH = 32  # examples scored at once: like training, but without activations to keep


class EncoderKind(TaskKind):
    """A kind of task whose examples are plain texts or pairs, cut at their end."""

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        return encode(examples, self.tokenizer, self.max_length)


def get_logits(model: TaskModel, batch: Batch) -> Tensor:
    """(batch, outputs) of the model's head."""
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    return model.model(**inputs).logits


def iterate_logits(model: TaskModel, examples: Sequence[Encoded], padding: Padding) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch, longest examples first: logits (batch, outputs), on the model's device, and labels (batch,)."""
    for batch in make_batches(examples, BATCH, padding):
        yield get_logits(model, batch), batch["labels"]
