"""Finds a pretrained model by name and loads it, as any class of model, with its tokenizer."""

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
    """The named model in eval mode, made by `factory` (`AutoModel`, `AutoModelForCausalLM`), and its tokenizer, which
    has a padding token.

    `name`: a hub id, a local folder, a local GGUF file, or "package:" and the name of an installed distribution that
    carries a Hugging Face folder or a GGUF file (its files are read, the package is never imported).
    `quantization`: None, "8bit" or "4bit" (NF4 with doubly quantised scales, as QLoRA, arXiv 2305.14314), both by
    bitsandbytes, with products in `dtype`. `device_map`: None for the whole model on `device`, or transformers' own
    argument, such as "auto". Raises `UserError` when the model cannot be found or read, the package is not installed,
    the dtype or quantisation is unknown, bitsandbytes or the device is missing, or the tokenizer has neither a padding
    nor an end token.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype: use one of {', '.join(DTYPES)}. Received: {dtype!r}")
    target = _parse_device(device)
    if device_map is not None and device != "cpu":
        raise UserError(f"device_map: it places the model, leave device out. Received: device {device!r}")
    options: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if quantization is not None or device_map is not None:
        options["device_map"] = {"": target} if device_map is None else device_map
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
        model = model.to(target)
    if quantization is not None:
        make_shareable_(model)
    return model.eval(), tokenizer


def _parse_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: use cpu, cuda, cuda:1 ... Received: {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: this torch sees no GPU, use cpu. Received: {name!r}")
    return device


def resolve_source(name: str) -> str:
    """The hub id or folder that transformers can read for a name as `load_pretrained` takes it.

    Raises `UserError` for a package or a GGUF file that cannot be read.
    """
    source = str(find_package_model(name)) if name.startswith(PACKAGE_PREFIX) else name
    is_gguf = source.endswith(".gguf") and Path(source).is_file()
    return str(dequantise_to_folder(Path(source))) if is_gguf else source


def find_package_model(name: str) -> Path:
    """The folder with config.json and weights inside the distribution that "package:<distribution>" names, or else its
    one GGUF file.

    Raises `UserError` when the distribution is not installed or holds neither.
    """
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise UserError(f"backbone {name!r}: the package is not installed. Run: pip install {package}") from error
    weight_folders = {PurePath(file).parent for file in files if PurePath(file).suffix in (".safetensors", ".bin")}
    configs = [file for file in files if file.name == "config.json" and PurePath(file).parent in weight_folders]
    if configs:
        return Path(str(configs[0].locate())).parent
    gguf_files = [file for file in files if PurePath(file).suffix == ".gguf"]
    if len(gguf_files) != 1:
        raise UserError(
            f"backbone {name!r}: the package {package} has no folder with config.json and weights, "
            f"and {len(gguf_files)} GGUF files where one is needed."
        )
    return Path(str(gguf_files[0].locate()))


def _set_padding(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"backbone {name!r}: its tokenizer has neither a padding token nor an end token.")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
