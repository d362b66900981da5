"""Dequantises a LLaMA in a GGUF file into an ordinary Hugging Face folder, once for each file."""

import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fedpeft.errors import UserError

LAYOUT = 1  # version of the folders written below: raise it, and older folders are no longer read

# Module names inside a block: in the file -> in the model.
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def dequantise_to_folder(file: Path) -> Path:
    """The folder with the float32 weights, configuration and tokenizer (with its chat template) of a GGUF file.

    The first call writes it under $FEDPEFT_CACHE (default ~/.cache/fedpeft), later ones find it by the file's digest.
    Needs memory for the float32 weights. Raises `UserError` when gguf is not installed, when the file is damaged or
    holds another architecture than LLaMA, and when the folder cannot be written.
    """
    try:
        return _find_or_write_folder(file)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read, or its copy under $FEDPEFT_CACHE not be written: {error}") from error
    except Exception as error:  # the boundary to a file that anybody may have written: whatever is wrong is the file's
        raise UserError(f"{file} cannot be read as a GGUF file: {error!r}") from error


def _find_or_write_folder(file: Path) -> Path:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    cache = Path(os.environ.get("FEDPEFT_CACHE") or Path.home() / ".cache" / "fedpeft") / "gguf"
    folder = cache / f"{digest[:24]}-{LAYOUT}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache, prefix="unfinished-") as temporary:
        unfinished = Path(temporary) / "model"
        _write_folder(file, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process has just written the same folder
                raise
    return folder


def _write_folder(file: Path, folder: Path) -> None:
    """Writes the file's weights, configuration and tokenizer to `folder`."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(f"{file.name}: reading GGUF files needs gguf. Run: pip install 'fedpeft[gguf]'") from error
    reader = GGUFReader(str(file))
    values = {name: field.contents() for name, field in reader.fields.items() if not _is_vocabulary(name)}
    config = _read_config(file, values, reader.tensors)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(_read_weights(file, reader.tensors, config), assign=True)
    model.tie_weights()
    model.save_pretrained(str(folder))
    _load_tokenizer(file, values).save_pretrained(str(folder))


def _is_vocabulary(name: str) -> bool:
    return name in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores")


def _read_config(file: Path, values: dict[str, Any], tensors: Any) -> LlamaConfig:
    """The model's configuration by the file's `values`; raises `UserError` for a model that it cannot describe."""
    if values.get("general.architecture") != "llama":
        raise UserError(
            f"{file.name}: only LLaMA is read from GGUF files, give a Hugging Face folder or hub id. "
            f"Received: {values.get('general.architecture')!r}"
        )
    llama = {name.removeprefix("llama."): value for name, value in values.items() if name.startswith("llama.")}
    scaling = llama.get("rope.scaling.type", "none")
    if scaling != "none" or "rope.scale_linear" in llama:
        raise UserError(
            f"{file.name}: scaled positions are not read from GGUF files, give a Hugging Face folder or hub id. "
            f"Received: rope scaling {scaling!r}"
        )
    heads, width = llama["attention.head_count"], llama["embedding_length"]
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    return LlamaConfig(
        vocab_size=int(shapes["token_embd.weight"][1]),
        hidden_size=width,
        intermediate_size=llama["feed_forward_length"],
        num_hidden_layers=llama["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=llama.get("attention.head_count_kv", heads),
        head_dim=llama.get("attention.key_length", width // heads),
        max_position_embeddings=llama["context_length"],
        rms_norm_eps=llama["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": llama.get("rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in shapes,
        bos_token_id=values.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=values.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=values.get("tokenizer.ggml.padding_token_id"),
        dtype="float32",
    )


def _read_weights(file: Path, tensors: Any, config: LlamaConfig) -> dict[str, Tensor]:
    """The state dict of the model, in float32."""
    from gguf import dequantize

    weights = {}
    for tensor in tensors:
        # A copy, because tensors stored without quantisation come back as read-only views of the file.
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())  # (d_out, d_in) or (width,)
        name = _convert_name(file, tensor.name)
        if ".q_proj" in name:
            weight = reorder_rotary_rows(weight, config.num_attention_heads)
        elif ".k_proj" in name:
            weight = reorder_rotary_rows(weight, config.num_key_value_heads or config.num_attention_heads)
        weights[name] = weight
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    return weights


def _convert_name(file: Path, name: str) -> str:
    """The state dict's name of a tensor in the file; raises `UserError` where the model has no such tensor."""
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.weight"
    _, number, inner = [*stem.split(".", 2), "", ""][:3]
    if kind == "weight" and stem.startswith("blk.") and inner in _BLOCK:
        return f"model.layers.{number}.{_BLOCK[inner]}.weight"
    # Llama 3's rope_freqs, experts, biases: a model without them would be another model.
    raise UserError(
        f"{file.name}: this kind of LLaMA is not read from GGUF files, give a Hugging Face folder or hub id. "
        f"Received: a tensor {name!r}"
    )


def reorder_rotary_rows(weight: Tensor, heads: int) -> Tensor:
    """The rows of a query or key weight (heads * size, d_in) in the order of transformers.

    A rotation acts on pairs of rows of a head: neighbours 2i, 2i + 1 in the file, i and i + size / 2 in transformers.
    """
    rows = weight.shape[0]
    return weight.view(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(rows, -1)


def _load_tokenizer(file: Path, values: dict[str, Any]) -> Any:
    """The tokenizer in the file, with its length limit and its handling of digits."""
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer.model_max_length = values["llama.context_length"]
    if values.get("tokenizer.ggml.pre") == "smollm":  # it splits digits, which transformers does not read
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    return tokenizer
