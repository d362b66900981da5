"""Loads a frozen backbone with a classification head on it."""

from transformers import AutoModel, PreTrainedTokenizerBase

from fedpeft.backbones.heads import Pooling, SequenceClassifier
from fedpeft.backbones.pretrained import DeviceMap, load_pretrained


def load_backbone(
    name: str,
    *,
    num_labels: int,
    pooling: Pooling,
    dtype: str = "float32",
    device: str = "cpu",
    quantization: str | None = None,
    device_map: DeviceMap = None,
) -> tuple[SequenceClassifier, PreTrainedTokenizerBase]:
    """A `SequenceClassifier` on the named backbone, in eval mode, and its tokenizer, which has a padding token.

    The head is drawn from torch's global generator. For the other arguments and the errors raised see
    `load_pretrained`.
    """
    backbone, tokenizer = load_pretrained(
        AutoModel,
        name,
        dtype=dtype,
        device=device,
        quantization=quantization,
        device_map=device_map,
        replaced=["pooler"],
    )
    if "pooler" in dict(backbone.named_children()):
        backbone.pooler = None  # sentence encoders never trained it, and nothing here reads its output
    model = SequenceClassifier(backbone, num_labels, pooling, name=name)
    model.loading_notes = backbone.loading_notes
    return model.eval(), tokenizer
