"""Texts that the tiny decoder writes."""

import torch
from helpers.decoding import PADDING

from fedpeft.tasks.kinds.common.writing import generate


def test_what_is_written_does_not_depend_on_the_examples_beside(decoder, encoded, tokenizer):
    together = generate(decoder, encoded, PADDING, tokenizer, 6)
    alone = [generate(decoder, [row], PADDING, tokenizer, 6)[0] for row in encoded]
    assert together == alone
    assert any(together)


def test_the_prompt_is_left_out_and_length_is_bounded(decoder, encoded, tokenizer):
    texts = generate(decoder, encoded, PADDING, tokenizer, 3)
    assert all(len(text.split()) <= 3 for text in texts)
    longer = generate(decoder, encoded, PADDING, tokenizer, 6)
    assert all(long.startswith(text) for text, long in zip(texts, longer, strict=True))


def test_options_go_to_the_model(decoder, encoded, tokenizer):
    sampled = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        sampled.append(generate(decoder, encoded, PADDING, tokenizer, 6, do_sample=True, temperature=10.0))
    assert sampled[0] == sampled[1] != sampled[2]
