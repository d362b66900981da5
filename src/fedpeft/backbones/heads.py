"""A classification head on any backbone, with pooling that reads the attention mask."""

import inspect
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from fedpeft.errors import UserError

Pooling = Literal["mean", "cls", "last"]


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """One vector per sequence, (batch, length, width) -> (batch, width); padding may be on either side.

    `mean`: over the real tokens; `cls`: the first real token; `last`: the last real token.
    """
    if mask is None:
        mask = hidden.new_ones(hidden.shape[:2])  # (batch, length)
    if pooling == "mean":
        total = torch.bmm(mask.to(hidden.dtype).unsqueeze(1), hidden).squeeze(1)  # (batch, width)
        return total / mask.sum(-1, keepdim=True).clamp(min=1).to(hidden.dtype)
    order = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "cls":
        order = order.flip(0)
    position = ((mask != 0) * (order + 1)).argmax(-1)  # (batch,): the largest value marks the token wanted
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), position]


def _counts_from_zero(backbone: nn.Module) -> bool:
    """Whether the backbone has learned absolute positions that it counts from the first column, padding or
    not.

    RoBERTa and MPNet skip padding themselves (their table has a padding index); rotary models only see
    distances.
    """
    tables = [
        module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in ("position_embeddings", "wpe")
    ]
    takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters
    return takes_positions and any(table.padding_idx is None for table in tables)


class SequenceClassifier(nn.Module):
    """`backbone` (any `AutoModel`), pooling, and a linear `classifier` in float32.

    Wrap it with `get_peft_model(classifier, config)` and `modules_to_save=["classifier"]`. `name` is kept as
    `name_or_path`, which PEFT writes into the saved adapter's configuration.
    """

    def __init__(self, backbone: PreTrainedModel, num_labels: int, pooling: Pooling, name: str | None = None) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise UserError(f"pooling: use one of {', '.join(get_args(Pooling))}. Received: {pooling!r}")
        if num_labels < 1:
            raise UserError(f"num_labels: give 1 for regression, or the number of classes. Received: {num_labels!r}")
        self.backbone = backbone
        self.config = backbone.config
        self.config.num_labels = num_labels
        self.pooling: Pooling = pooling
        self.name_or_path = name
        width = self.config.get_text_config().hidden_size
        self.classifier = nn.Linear(width, num_labels, dtype=torch.float32, device=backbone.device)
        self._counts_from_zero = _counts_from_zero(backbone)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """`input_ids`, `attention_mask` (batch, length), `labels` (batch,) -> mean loss, logits (batch, classes).

        With one output the loss is the squared error."""
        if self._counts_from_zero and attention_mask is not None and "position_ids" not in kwargs:
            kwargs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        pooled = pool(hidden, attention_mask, self.pooling)
        with torch.autocast(pooled.device.type, enabled=False):  # scores that are rounded would tie
            logits = self.classifier(pooled.float())
        return SequenceClassifierOutput(loss=None if labels is None else _loss(logits, labels), logits=logits)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits.squeeze(-1), labels.float())
    return nn.functional.cross_entropy(logits, labels)
