"""A classification head on any backbone, with pooling that respects the attention mask."""

import inspect
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from fedpeft.errors import UserError

Pooling = Literal["mean", "cls", "last"]


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """One vector for each sequence: (batch, length, width) -> (batch, width).

    `mean`: the mean of the real tokens; `cls`: the first real token; `last`: the last real token. `mask`
    (batch, length) is 0 on padding, which may be on either side; None: there is no padding.
    """
    if mask is None:
        mask = hidden.new_ones(hidden.shape[:2])  # (batch, length)
    if pooling == "mean":
        total = torch.bmm(mask.to(hidden.dtype).unsqueeze(1), hidden).squeeze(1)  # (batch, width)
        return total / mask.sum(-1, keepdim=True).clamp(min=1).to(hidden.dtype)
    order = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "cls":
        order = order.flip(0)
    position = ((mask != 0) * (order + 1)).argmax(-1)  # (batch,): the chosen token has the largest value
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), position]


def _needs_position_ids(backbone: nn.Module) -> bool:
    """Whether padding on the left would shift the backbone's learned absolute positions.

    RoBERTa and MPNet skip padding themselves (their table has a padding index); rotary models only use distances.
    """
    tables = [
        module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in ("position_embeddings", "wpe")
    ]
    accepts_positions = "position_ids" in inspect.signature(backbone.forward).parameters
    return accepts_positions and any(table.padding_idx is None for table in tables)


class SequenceClassifier(nn.Module):
    """Any `AutoModel` as `backbone`, pooling, and a linear `classifier` in float32.

    Wrap it with `get_peft_model(classifier, config)` and `modules_to_save=["classifier"]`. `name` is kept as
    `name_or_path`, which PEFT writes into the saved adapter's configuration. Raises `UserError` for another pooling and
    for `num_labels` below 1.
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
        self.loading_notes: tuple[str, ...] = ()  # what a user should know of how the backbone was loaded
        width = self.config.get_text_config().hidden_size
        self.classifier = nn.Linear(width, num_labels, dtype=torch.float32, device=backbone.device)
        self._needs_position_ids = _needs_position_ids(backbone)

    @property
    def device(self) -> torch.device:
        """The device that inputs go to."""
        return self.backbone.device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (batch, classes) in float32 and, where there are `labels` (batch,), their mean loss.

        `input_ids` and `attention_mask` are (batch, length). The loss is the cross-entropy, and with one output the
        squared error.
        """
        if self._needs_position_ids and attention_mask is not None and "position_ids" not in kwargs:
            kwargs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        features = pool(hidden, attention_mask, self.pooling)
        with torch.autocast(features.device.type, enabled=False):  # rounded logits would tie
            logits = self.classifier(features.float())
        return SequenceClassifierOutput(loss=None if labels is None else _compute_loss(logits, labels), logits=logits)


def _compute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits.squeeze(-1), labels.float())
    return nn.functional.cross_entropy(logits, labels)
