"""Which models load, and where their parts are: hub, folder, package, GGUF, quantised; blocks, heads, pooling."""

from fedpeft.backbones.blocks import count_blocks
from fedpeft.backbones.classifier import load_backbone
from fedpeft.backbones.decoder import load_decoder
from fedpeft.backbones.heads import SequenceClassifier
from fedpeft.backbones.pretrained import DTYPES, load_tokenizer

__all__ = [
    "DTYPES",
    "SequenceClassifier",
    "count_blocks",
    "load_backbone",
    "load_decoder",
    "load_tokenizer",
]
