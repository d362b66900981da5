"""A tiny real model and a small real task, made on the spot, so that whole runs take seconds and need no download."""

import gc
import json
import logging
import random
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pytest_plugins = ["helpers.commands", "helpers.exports", "helpers.tiny_adapted"]

POSITIVE = ["good", "great", "fine", "lovely", "superb"]
NEGATIVE = ["bad", "poor", "awful", "dull", "broken"]
FILLER = ["the", "a", "film", "book", "plane", "was", "very", "really", "we", "saw", "it", "today", "again"]


def pytest_collection_finish():
    """The libraries stay for good: a collection of garbage need not walk them, and every run begins with one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def keep_log_level():
    """A command sets the level of the whole process: the next test begins as the first did."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A Hugging Face folder: BERT with 2 blocks of width 32 over a vocabulary of some thirty words."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *POSITIVE, *NEGATIVE, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory) -> Path:
    """A Hugging Face folder: LLaMA with 2 blocks of width 32 over some fifty words; no token begins a text."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    numbers = [str(i) for i in range(10)]
    words = [
        "[PAD]",
        "[UNK]",
        "[END]",
        *POSITIVE,
        *NEGATIVE,
        *FILLER,
        *numbers,
        "yes",
        "no",
        "answer",
        "is",
        "plus",
        ":",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, initializer_range=0.3, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def sentences(count: int, seed: int) -> list[dict[str, object]]:
    """Rows whose label is told by three of their words; no two texts alike."""
    draw = random.Random(seed)
    rows: dict[str, dict[str, object]] = {}
    while len(rows) < count:
        label = draw.randrange(2)
        words = [draw.choice(POSITIVE if label else NEGATIVE) for _ in range(3)]
        words += [draw.choice(FILLER) for _ in range(draw.randrange(2, 6))]
        draw.shuffle(words)
        rows[" ".join(words)] = {"text": " ".join(words), "label": label, "site": f"site{len(rows) % 3}"}
    return list(rows.values())


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """One JSONL file of 240 rows from three sites."""
    file = tmp_path_factory.mktemp("data") / "reviews.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in sentences(240, 0)))
    return file


@pytest.fixture
def experiment_file(tmp_path, tiny_model, tiny_data) -> Path:
    """A whole experiment over three clients that takes about a second."""
    file = tmp_path / "experiment.yaml"
    settings = {
        "name": "tiny",
        "model": {"name": str(tiny_model), "max_length": 16},
        "task": {"source": str(tiny_data)},
        "partition": {"kind": "natural", "column": "site"},
        "training": {"rounds": 3, "batch_size": 4},
        "methods": {
            "local": {"lr": 5e-3},
            "centralised": {"lr": 5e-3},
            "fedit": {"lr": 5e-3},
            "fedavg_ft": {"lr": 5e-3},
            "fedavg_loreft": {"lr": 2e-2},
            "fedreft": {"lr": 2e-2, "mixing": "validation"},
            "ditto": {"lr": 5e-3},
            "fed_sb": {"lr": 2e-2},
            "fedex_lora": {"lr": 5e-3},
            "fedhft": {"lr": 1e-2, "warmup": 2},
            "fedsa_lora": {"lr": 5e-3},
            "ffa_lora": {"lr": 1e-2},
            "flexlora": {"lr": 5e-3},
            "flora": {"lr": 5e-3},
            "hetlora": {"lr": 5e-3},
            "ifca": {"lr": 5e-3},
            "lora_fair": {"lr": 5e-3},
            "rolora": {"lr": 1e-2},
        },
    }
    file.write_text(yaml.safe_dump(settings))
    return file
