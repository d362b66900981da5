"""A tiny BERT and a tiny task on disk, for benchmarks of everything but the model."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(60)]


def tiny_model(folder: Path) -> Path:
    """A Hugging Face folder: BERT, 2 blocks of width 32, random weights."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def tiny_task(file: Path, rows: int = 240, clients: int = 6) -> Path:
    """A JSONL file: the label is whether the first word is one of the first thirty."""
    draw = random.Random(0)
    lines = []
    for i in range(rows):
        words = [draw.choice(WORDS) for _ in range(8)]
        lines.append({"text": " ".join(words), "label": int(words[0] in WORDS[:30]), "site": f"site{i % clients}"})
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file
