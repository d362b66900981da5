"""A LLaMA in a GGUF file, dequantised once into an ordinary Hugging Face folder."""

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

LAYOUT = 1  # of the folders written below; another number, and old ones are left unread

# Names inside a block of the file -> inside a block of the model.
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

    Written on the first call, found by the file's digest on later ones, under $FEDPEFT_CACHE (default
    ~/.cache/fedpeft). Needs memory for the float32 weights. Raises `UserError` when gguf is not installed or the file
    holds another architecture than LLaMA.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    home = Path(os.environ.get("FEDPEFT_CACHE") or Path.home() / ".cache" / "fedpeft") / "gguf"
    folder = home / f"{digest[:24]}-{LAYOUT}"
    if folder.is_dir():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home, prefix="unfinished-") as temporary:
        whole = Path(temporary) / "model"
        _write(file, whole)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same bytes
                raise
    return folder


def _write(file: Path, folder: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(f"{file.name}: reading GGUF files needs gguf. Run: pip install 'fedpeft[gguf]'") from error
    reader = GGUFReader(str(file))
    values = {name: field.contents() for name, field in reader.fields.items() if not _is_vocabulary(name)}
    config = _config(file, values, reader.tensors)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(_weights(file, reader.tensors, config), assign=True)
    model.tie_weights()
    model.save_pretrained(str(folder))
    _tokenizer(file, values).save_pretrained(str(folder))


def _is_vocabulary(name: str) -> bool:
    return name in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores")


def _config(file: Path, values: dict[str, Any], tensors: Any) -> LlamaConfig:
    if values.get("general.architecture") != "llama":
        raise UserError(
            f"{file.name}: only LLaMA is read from GGUF files, give a Hugging Face folder or hub id. "
            f"Received: {values.get('general.architecture')!r}"
        )
    of = {name.removeprefix("llama."): value for name, value in values.items() if name.startswith("llama.")}
    scaling = of.get("rope.scaling.type", "none")
    if scaling != "none" or "rope.scale_linear" in of:
        raise UserError(
            f"{file.name}: scaled positions are not read from GGUF files, give a Hugging Face folder or hub id. "
            f"Received: rope scaling {scaling!r}"
        )
    heads, width = of["attention.head_count"], of["embedding_length"]
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    return LlamaConfig(
        vocab_size=int(shapes["token_embd.weight"][1]),
        hidden_size=width,
        intermediate_size=of["feed_forward_length"],
        num_hidden_layers=of["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=of.get("attention.head_count_kv", heads),
        head_dim=of.get("attention.key_length", width // heads),
        max_position_embeddings=of["context_length"],
        rms_norm_eps=of["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": of.get("rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in shapes,
        bos_token_id=values.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=values.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=values.get("tokenizer.ggml.padding_token_id"),
        dtype="float32",
    )


def _weights(file: Path, tensors: Any, config: LlamaConfig) -> dict[str, Tensor]:
    from gguf import dequantize

    weights = {}
    for tensor in tensors:
        # A copy: what is stored plainly comes back as a read-only view of the file.
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())  # (d_out, d_in) or (width,)
        name = _model_name(file, tensor.name)
        if ".q_proj" in name:
            weight = reorder_rotary_rows(weight, config.num_attention_heads)
        elif ".k_proj" in name:
            weight = reorder_rotary_rows(weight, config.num_key_value_heads or config.num_attention_heads)
        weights[name] = weight
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    return weights


def _model_name(file: Path, name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.weight"
    _, number, inner = [*stem.split(".", 2), "", ""][:3]
    if kind == "weight" and stem.startswith("blk.") and inner in _BLOCK:
        return f"model.layers.{number}.{_BLOCK[inner]}.weight"
    # Llama 3's rope_freqs, experts, biases: leaving one out would give another model.
    raise UserError(
        f"{file.name}: this kind of LLaMA is not read from GGUF files, give a Hugging Face folder or hub id. "
        f"Received: a tensor {name!r}"
    )


def reorder_rotary_rows(weight: Tensor, heads: int) -> Tensor:
    """(heads * size, d_in) -> the same rows in transformers' order.

    A rotation turns pairs of rows of a head: neighbours 2i, 2i + 1 in the file, i and i + size / 2 in transformers.
    """
    rows = weight.shape[0]
    return weight.view(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(rows, -1)


def _tokenizer(file: Path, values: dict[str, Any]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer.model_max_length = values["llama.context_length"]
    if values.get("tokenizer.ggml.pre") == "smollm":  # splits digits off, which transformers does not read
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    return tokenizer
