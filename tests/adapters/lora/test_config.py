import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import BertConfig, BertModel

from fedpeft.adapters import make_lora_config
from fedpeft.backbones import SequenceClassifier
from fedpeft.errors import UserError

LINEAR = {"bert": 6, "roberta": 6, "mpnet": 6, "llama": 7, "qwen2": 7, "qwen3": 7, "mistral": 7, "gpt2": 4}


def wrapped_names(model):
    return [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("architecture", LINEAR)
def test_every_linear_map_of_every_block_and_nothing_else(architecture, tiny_classifier, padded):
    plain, batch = tiny_classifier(architecture), padded()
    with torch.no_grad():
        expected = plain(**batch).logits
    model = get_peft_model(plain, make_lora_config(plain, r=2, alpha=4))
    assert len(wrapped_names(model)) == 3 * LINEAR[architecture]
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, expected)


def test_minilm_size():
    with torch.device("meta"):
        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        model = SequenceClassifier(BertModel(BertConfig(vocab_size=10, **sizes)), num_labels=3, pooling="mean")
    wrapped = get_peft_model(model, make_lora_config(model, r=8, alpha=16))
    trained = {name: p.numel() for name, p in wrapped.named_parameters() if p.requires_grad}
    assert sum(size for name, size in trained.items() if ".lora_" in name) == 331_776
    assert sum(size for name, size in trained.items() if ".lora_" not in name) == 3 * 384 + 3


def test_chosen_layers_and_targets(tiny_classifier):
    plain = tiny_classifier("llama")
    model = get_peft_model(plain, make_lora_config(plain, r=2, alpha=4, layers=[0, 2], targets=["q_proj", "v_proj"]))
    assert [name.removeprefix("base_model.model.backbone.layers.") for name in wrapped_names(model)] == [
        "0.self_attn.q_proj",
        "0.self_attn.v_proj",
        "2.self_attn.q_proj",
        "2.self_attn.v_proj",
    ]


def test_a_language_model_has_no_classifier_to_save(tiny):
    assert make_lora_config(tiny("llama"), r=2, alpha=4).modules_to_save is None


@pytest.mark.parametrize("targets", [["q"], "q_proj", []])
def test_unknown_targets_are_refused_with_what_there_is(targets, tiny):
    with pytest.raises(UserError, match=r"targets: LlamaForCausalLM has down_proj.*Received"):
        make_lora_config(tiny("llama"), r=2, alpha=4, targets=targets)


@pytest.mark.parametrize("r", [1, 3, 7])
def test_a_scale_is_exact_at_any_rank_and_survives_saving(r, tiny_classifier, padded, stir, tmp_path):
    plain = tiny_classifier("bert")
    model = get_peft_model(plain, make_lora_config(plain, r=r, alpha=0.75 * r))
    stir(model)
    assert {m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer)} == {0.75}
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(tiny_classifier("bert"), str(tmp_path)).eval()
    assert loaded.peft_config["default"].lora_alpha == 0.75 * r
    with torch.no_grad():
        assert torch.equal(loaded(**padded()).logits, model.eval()(**padded()).logits)


@pytest.mark.parametrize(("architecture", "dims"), [("bert", "32 x 32"), ("gpt2", "32 x 96"), ("llama", "32 x 16")])
def test_a_rank_above_a_layers_dimensions_is_refused_before_anything_is_allocated(architecture, dims, tiny):
    model = tiny(architecture)
    smallest = int(dims.split(" x ")[1]) if architecture == "llama" else 32
    for density in (1.0, 0.5):
        make_lora_config(model, r=smallest, alpha=4, density=density)
        with pytest.raises(
            UserError, match=rf"^r: .*is {dims}, so that r is at most {smallest}\. Received: {smallest + 1}"
        ):
            make_lora_config(model, r=smallest + 1, alpha=4, density=density)
