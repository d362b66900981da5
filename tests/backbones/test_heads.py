import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

from fedpeft.adapters import LoReftConfig, make_lora_config
from fedpeft.backbones.heads import SequenceClassifier, pool
from fedpeft.errors import UserError

ARCHITECTURES = ("bert", "roberta", "mpnet", "llama", "qwen2", "qwen3", "mistral", "gpt2")


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_reads_the_real_tokens_only(pooling, side, padded):
    mask = padded(side)["attention_mask"]
    hidden = torch.randn(*mask.shape, 6, dtype=torch.float64)
    rows = [hidden[i][mask[i].bool()] for i in range(len(mask))]
    expected = {"mean": [r.mean(0) for r in rows], "cls": [r[0] for r in rows], "last": [r[-1] for r in rows]}
    torch.testing.assert_close(pool(hidden, mask, pooling), torch.stack(expected[pooling]))
    whole = pool(hidden, None, pooling)
    torch.testing.assert_close(whole, pool(hidden, torch.ones_like(mask), pooling))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_both_padding_sides_give_the_same_logits(architecture, pooling, tiny_classifier, padded, stir):
    plain = tiny_classifier(architecture, pooling)
    reft = LoReftConfig(r=3, positions="f2+l3", modules_to_save=["classifier"])
    everywhere = LoReftConfig(r=3, positions="all", modules_to_save=["classifier"])
    for config in (reft, everywhere, make_lora_config(plain, r=2, alpha=4)):
        model = get_peft_model(copy.deepcopy(plain), config)
        stir(model)
        with torch.no_grad():
            left, right = (model(**padded(side)).logits for side in ("left", "right"))
            alone = model(input_ids=padded("left")["input_ids"][1:2, -4:]).logits  # the row without its padding
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone, right[1:2], rtol=1e-4, atol=1e-4)


def test_loss_is_the_mean_cross_entropy(tiny_classifier, padded):
    model, labels = tiny_classifier("bert"), torch.tensor([0, 2, 1])
    out = model(**padded(), labels=labels)
    expected = -torch.log_softmax(out.logits.double(), -1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(out.loss.double(), expected)
    assert model(**padded()).loss is None


def test_the_head_stays_float32_on_a_bfloat16_backbone(tiny_classifier, padded):
    plain = tiny_classifier("bert")
    plain.backbone.bfloat16()
    logits = plain(**padded()).logits
    assert logits.dtype == plain.classifier.weight.dtype == torch.float32


def test_with_one_output_the_loss_is_the_mean_squared_error(tiny, padded):
    model, labels = SequenceClassifier(tiny("bert"), 1, "mean"), torch.tensor([0.5, -3, 2])
    out = model(**padded(), labels=labels)
    assert out.logits.shape == (3, 1)
    torch.testing.assert_close(out.loss, (out.logits[:, 0] - labels).square().mean())


@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_head_is_trained_saved_and_loaded_with_the_adapter(kind, tiny_classifier, padded, stir, tmp_path):
    plain, batch = tiny_classifier("bert"), padded()
    reft = LoReftConfig(modules_to_save=["classifier"])
    model = get_peft_model(copy.deepcopy(plain), reft if kind == "reft" else make_lora_config(plain, r=2, alpha=4))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trained if "classifier" in n} == {
        "base_model.model.classifier.modules_to_save.default.weight",
        "base_model.model.classifier.modules_to_save.default.bias",
    }
    stir(model)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)
        assert not torch.equal(loaded(**batch).logits, plain(**batch).logits)


def test_wrong_values_are_refused(tiny, tiny_classifier):
    with pytest.raises(UserError, match=r"num_labels: give 1 for regression.*Received: 0"):
        SequenceClassifier(tiny("bert"), 0, "mean")
    with pytest.raises(UserError, match=r"pooling: use one of mean, cls, last. Received: 'max'"):
        tiny_classifier("bert", "max")


def test_logits_are_not_rounded_under_autocast(tiny_classifier):
    """Rounded ones tie."""
    ids = torch.randint(3, 40, (64, 7), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = tiny_classifier("bert")(ids, torch.ones_like(ids)).logits
    assert logits.dtype == torch.float32
    assert len(logits[:, 0].unique()) == len(ids.unique(dim=0)) == 64
