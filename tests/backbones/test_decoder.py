"""Decoders by folder: what generation needs is set, greedy decoding is greedy."""

import pytest
import torch
from transformers import GenerationConfig

from fedpeft.backbones import DTYPES, load_decoder
from fedpeft.backbones.decoder import OutputLinear


def test_a_folder_gives_the_saved_model_ready_to_generate(folder, tiny, padded):
    model, tokenizer = load_decoder(folder(eos_token="</s>"))
    batch = padded("left")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, tiny("llama")(**batch).logits)
    assert not model.training and model.dtype == torch.float32
    assert tokenizer.padding_side == "left" and tokenizer.pad_token == "</s>"
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 2


def test_rows_of_a_batch_go_on_as_they_would_alone(folder):
    model, tokenizer = load_decoder(folder(eos_token="</s>"))
    texts = ["good bad good good", "bad"]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    together = model.generate(**batch, **options)[:, -4:]
    unpadded = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in texts]
    assert torch.equal(together, torch.cat([model.generate(**row, **options)[:, -4:] for row in unpadded]))


def test_greedy_is_greedy_whatever_the_models_makers_recommend(folder):
    name = folder(eos_token="</s>")
    original, tokenizer = load_decoder(name)
    recommended = GenerationConfig(repetition_penalty=5.0, no_repeat_ngram_size=1, do_sample=True, top_p=0.5)
    recommended.save_pretrained(name)
    model, _ = load_decoder(name)
    batch = tokenizer("good bad", return_tensors="pt", return_token_type_ids=False)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    written = model.generate(**batch, **options)
    assert torch.equal(written, original.generate(**batch, **options))
    assert not torch.equal(
        written, original.generate(**batch, **options, repetition_penalty=5.0, no_repeat_ngram_size=1)
    )


def test_bfloat16_and_a_device_map(folder):
    name = folder(eos_token="</s>")
    model, _ = load_decoder(name, dtype="bfloat16", device_map="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_autocast_leaves_the_output_layer_in_its_stored_dtype(dtype, folder):
    model, _ = load_decoder(folder(eos_token="</s>"), dtype=dtype)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.nn.functional.linear(hidden.to(model.dtype), model.lm_head.weight)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.lm_head(hidden)
    assert logits.dtype == DTYPES[dtype] and torch.equal(logits, expected)


def test_a_tied_output_layer_stays_tied(tiny, folder):
    name = folder(eos_token="</s>")
    tiny("llama", tie_word_embeddings=True).save_pretrained(name)
    model, _ = load_decoder(name)
    assert type(model.lm_head) is OutputLinear and model.lm_head.weight is model.model.embed_tokens.weight
