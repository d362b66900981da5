"""8-bit and 4-bit backbones with every adapter, on a CPU, where bitsandbytes is installed."""

import sys
from importlib.util import find_spec

import pytest
import torch
from peft import get_peft_model

from fedpeft.adapters import AdaptedModel, LoReftConfig, make_lora_config
from fedpeft.backbones import SequenceClassifier, load_backbone, load_decoder
from fedpeft.errors import UserError

ADAPTERS = ("lora", "masked", "reft")
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (the quantized extra)"
)


@pytest.fixture
def quantised(folder, tiny):
    """quantised("4bit") -> a tiny LLaMA, 64 wide: in 4 bits 64 weights share a scale."""

    def build(quantization, dtype="float32"):
        name = folder(eos_token="</s>")
        tiny("llama", width=64).save_pretrained(name)
        return load_decoder(name, quantization=quantization, dtype=dtype)[0]

    return build


@pytest.fixture
def adapted(stir):
    def build(model, kind):
        if kind == "reft":
            config = LoReftConfig(r=3, positions="f2+l2")
        else:
            config = make_lora_config(model, r=2, alpha=2, density=0.4 if kind == "masked" else 1.0)
        peft = get_peft_model(model, config)
        stir(peft)
        return AdaptedModel(peft)

    return build


def step(adapted, batch):
    labels = batch["input_ids"].where(batch["attention_mask"].cumsum(-1) > 3, -100)
    loss = adapted.model(**batch, labels=labels).loss
    gradients = torch.autograd.grad(loss, adapted.parameters())
    return loss.detach(), gradients


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_adapters_train_in_float32_and_recomputing_gives_the_same(quantization, kind, quantised, adapted, padded):
    model, batch = adapted(quantised(quantization, "bfloat16"), kind), padded()
    loss, gradients = step(model, batch)
    assert loss.isfinite() and all(g.isfinite().all() and g.any() for g in gradients)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    pytest.importorskip("fedpeft.acceleration.checkpointing").set_checkpointing_(model.base, True)
    same_loss, same = step(model, batch)
    assert torch.equal(loss, same_loss) and all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "error"), [("8bit", 0.1), ("4bit", 0.5)])
def test_close_to_the_plain_model(quantization, error, quantised, padded):
    batch, logits = padded(), []
    for chosen in (None, quantization):
        with torch.no_grad():
            logits.append(quantised(chosen)(**batch).logits[batch["attention_mask"].bool()])
    assert 0 < (logits[0] - logits[1]).norm() < error * logits[0].norm()


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_clone_made_before_the_first_forward_is_the_same_model_on_the_same_weights(
    quantization, quantised, adapted, padded
):
    first, batch = adapted(quantised(quantization), "lora"), padded()
    second = first.clone()
    with torch.no_grad():
        expected, got = first.model(**batch).logits, second.model(**batch).logits
    assert torch.equal(expected, got)
    if quantization == "8bit":
        layers = [
            one.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj.base_layer") for one in (first, second)
        ]
        assert layers[0].state.CB.data_ptr() == layers[1].state.CB.data_ptr()
        assert layers[0].state is not layers[1].state


@needs_bitsandbytes
def test_a_classifier_keeps_its_head_in_float32(folder, padded):
    model, _ = load_backbone(folder(eos_token="</s>"), num_labels=3, pooling="last", quantization="8bit")
    assert isinstance(model, SequenceClassifier) and model.classifier.weight.dtype == torch.float32
    assert model(**padded()).logits.shape == (3, 3)


def test_without_bitsandbytes_or_gpu_it_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device: this torch sees no GPU"):
        load_decoder("anything", quantization="4bit", device="cuda")
    monkeypatch.setattr("fedpeft.backbones.quantized.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"quantization: 4bit needs bitsandbytes. Run: pip install 'fedpeft\[quantized"):
        load_decoder("anything", quantization="4bit")
