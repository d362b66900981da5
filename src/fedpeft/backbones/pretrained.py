"""Loads a pretrained model by name, as any class of model, with its tokenizer; one that is not whole is refused."""

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from huggingface_hub.constants import ENDPOINT
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from fedpeft.backbones.locate import PACKAGE_PREFIX, quote, resolve_source
from fedpeft.backbones.quantized import make_quantization_config, make_shareable_
from fedpeft.backbones.sizes import require_stored_sizes
from fedpeft.backbones.vocabulary import require_vocabulary
from fedpeft.errors import UserError, printable

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
    replaced: Collection[str] = (),
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The named model in eval mode, made by `factory` (`AutoModel`, `AutoModelForCausalLM`), and its tokenizer, which
    has a padding token.

    `name`: a hub id, a local folder, a local GGUF file, or "package:" and the name of an installed distribution that
    carries a Hugging Face folder or a GGUF file (its files are read, the package is never imported).
    `quantization`: None, "8bit" or "4bit" (NF4 with doubly quantised scales, as QLoRA, arXiv 2305.14314), both by
    bitsandbytes, with products in `dtype`. `device_map`: None for the whole model on `device`, or transformers' own
    argument, such as "auto". `replaced`: parts of the model that the caller does not use. The model's `loading_notes`
    say which of the files' weights it has no place for. Raises `UserError` when the model cannot be found or read, when
    weights outside `replaced` are missing or the tokenizer is not the model's, when the package is not installed, the
    dtype or quantisation is unknown, bitsandbytes or the device is missing, or the tokenizer has neither a padding nor
    an end token.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype: use one of {', '.join(DTYPES)}. Received: {dtype!r}")
    if device_map is not None and device != "cpu":
        raise UserError(f"device_map: it places the model, leave device out. Received: device {device!r}")
    target = parse_device(device)
    options: dict[str, Any] = {"dtype": DTYPES[dtype]}
    if quantization is not None or device_map is not None:
        options["device_map"] = {"": target} if device_map is None else device_map
    if quantization is not None:
        options["quantization_config"] = make_quantization_config(quantization, DTYPES[dtype])
    model, tokenizer, report = _read_files(factory, name, resolve_source(name), options)
    _require_weights(name, report, replaced)
    require_vocabulary(name, tokenizer, model)
    model.loading_notes = _note_unused_weights(name, report["unexpected_keys"])
    _set_padding(name, tokenizer, model)
    if "device_map" not in options:
        model = model.to(target)
    if quantization is not None:
        make_shareable_(model)
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that `load_pretrained` takes, without the model. Raises `UserError`."""
    source = resolve_source(name)
    with _report_unreadable(name):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=_is_local(source))


def _read_files(factory: Any, name: str, source: str, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The model, the tokenizer and transformers' report. Raises `UserError` where they cannot be read."""
    is_local = _is_local(source)
    files: dict[str, Any] = {"trust_remote_code": False, "local_files_only": is_local}
    # Without these transformers draws weights that do not fit, or that the files lack, at random and goes on.
    reporting = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    with _report_unreadable(name):
        if find_adapter_config_file(source, local_files_only=is_local) is not None:
            raise ValueError("it is an adapter, not a model.")  # transformers would load the model that it names
        if os.path.isdir(source):
            require_stored_sizes(factory, Path(source))
        tokenizer = AutoTokenizer.from_pretrained(source, **files)
        model, report = factory.from_pretrained(source, **files, **reporting, **options)
    return model, tokenizer, report


def _is_local(source: str) -> bool:
    return os.path.isdir(source) or not _can_reach_hub()


@contextmanager
def _report_unreadable(name: str) -> Iterator[None]:
    """Context manager that raises `UserError` for whatever goes wrong with the files of the named model."""
    try:
        yield
    except Exception as error:  # the boundary to files that anybody may have written: whatever is wrong is the model's
        reason = printable((str(error).strip() or repr(error)).splitlines()[0], 200).rstrip(".")
        raise UserError(
            f"backbone {quote(name)} could not be loaded: {reason}. Give a hub id (needs a network), a local folder, "
            f"or '{PACKAGE_PREFIX}<distribution>'."
        ) from error


def _require_weights(name: str, report: dict[str, Any], replaced: Collection[str]) -> None:
    """Raises `UserError` for a model some of whose weights are not in its files, or have another shape there."""
    unlike = sorted(f"{key} {tuple(stored)} for {tuple(own)}" for key, stored, own in report["mismatched_keys"])
    if unlike:
        raise UserError(f"backbone {quote(name)}: config.json and weights are not of one model: {_list_some(unlike)}")
    missing = sorted(key for key in report["missing_keys"] if key.split(".")[0] not in replaced)
    if missing:
        raise UserError(
            f"backbone {quote(name)} lacks weights that are used here and would be random: {_list_some(missing)}; "
            "give a model that has them, for text generation a causal language model"
        )


def _note_unused_weights(name: str, unused: Collection[str]) -> tuple[str, ...]:
    """A note on weights in the files that the model has no place for, mostly heads of other tasks."""
    return (f"model {quote(name)}: weights not used: {_list_some(sorted(unused))}",) if unused else ()


def _list_some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return printable(", ".join(names[:3]), 250) + rest


def _can_reach_hub() -> bool:
    """Whether the hub's address can be found. Without a network every file would be asked for in vain for 20 s."""
    if getproxies().keys() & {"all", "http", "https"}:  # whoever is behind a proxy may know no addresses
        return True
    try:
        socket.getaddrinfo(urlparse(ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def parse_device(name: str) -> torch.device:
    """The device of a name. Raises `UserError` where this torch knows or sees no such device."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: use cpu, cuda, cuda:1 ... Received: {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: this torch sees no GPU, use cpu. Received: {name!r}")
    if device.type == "cuda" and (device.index or 0) >= (gpus := torch.cuda.device_count()):
        raise UserError(f"device: this torch sees {gpus} GPUs, cuda:0 to cuda:{gpus - 1}. Received: {name!r}")
    return device


def _set_padding(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"backbone {name!r}: its tokenizer has neither a padding token nor an end token.")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
