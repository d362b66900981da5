"""The loss of a target after its prompt: logits for the target's tokens alone, the prompt alone edited.

Batches are padded on the left, so that every prompt and target ends in the last column: logits are computed for the
last columns alone, which for a large vocabulary is a good part of the cost.
"""

from torch import Tensor, nn

from fedpeft.adapters import TaskModel
from fedpeft.tasks.encode import IGNORE, Batch


def compute_token_losses(model: TaskModel, batch: Batch) -> Tensor:
    """(batch,): cross entropy summed over the tokens of each target."""
    logits, labels = get_target_logits(model, batch)
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    return losses.sum(-1)


def get_target_logits(model: TaskModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (batch, kept, vocabulary), float32, that predict the labels (batch, kept) of the last columns.

    LoReFT edits the tokens before each example's first label. `batch` is padded on the left.
    """
    labels, mask = batch["labels"], batch["attention_mask"]
    kept = labels.shape[1] - int((labels != IGNORE).any(0).int().argmax())  # on the CPU still: no sync
    prompt = (mask != 0) & ((labels != IGNORE).cumsum(-1) == 0)
    return get_last_logits(model, batch, prompt, kept + 1)[:, :-1], labels[:, -kept:].to(model.device)


def get_last_logits(model: TaskModel, batch: Batch, prompt: Tensor, kept: int) -> Tensor:
    """(batch, kept, vocabulary), float32, of the last columns; `prompt` (batch, length) bool is what LoReFT edits."""
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (batch, length), counted from each example's first real token
    inputs = {"input_ids": batch["input_ids"], "attention_mask": mask, "position_ids": positions}
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    with model.use_prompt(prompt.to(model.device)):
        # One forward needs no key-value cache, which would copy every layer's keys and values.
        output = model.model(**inputs, logits_to_keep=kept, use_cache=False)
    return output.logits.float()
