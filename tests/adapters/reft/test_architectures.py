"""Models that are built unlike BERT and LLaMA: LoReFT goes with them, or says in words why not."""

import pytest
import torch
import transformers
from peft import get_peft_model
from torch import nn

from fedpeft.adapters import LoReftConfig
from fedpeft.errors import UserError

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GPT_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4}
T5_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
ALBERT_LAYER = r"encoder\.albert_layer_groups\.0\.albert_layers\.0"


def build(name, **options):
    """`build("BertModel", hidden_size=32)`: a tiny model of that transformers class, in eval mode."""
    torch.manual_seed(0)
    model = getattr(transformers, name)
    return model(model.config_class(**options)).eval()


def make_batch():
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return {"input_ids": torch.arange(18).view(2, 9) + 3, "attention_mask": mask}


def run_edited(model, stir, **config):
    """The states without and with an adapter away from its start, each (2, 9, 32)."""
    peft = get_peft_model(model, LoReftConfig(r=2, **config)).eval()
    stir(peft)
    with torch.no_grad():
        edited = peft(**make_batch(), output_hidden_states=True)
        with peft.disable_adapter():
            return peft(**make_batch(), output_hidden_states=True), edited


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("OpenAIGPTModel", GPT_SIZES),  # its blocks return lists
        ("T5EncoderModel", T5_SIZES),  # the encoder alone of a model of encoder and decoder
        ("LongformerModel", SIZES | {"attention_window": 8, "max_position_embeddings": 70, "pad_token_id": 1}),
        ("AlbertModel", SIZES | {"embedding_size": 16}),
        ("BertModel", SIZES),
    ],
)
def test_edited_at_every_position(name, options, stir):
    before, after = run_edited(build(name, vocab_size=60, **options), stir, positions="all")
    assert ((after[0] - before[0]).abs().amax(-1) > 1e-4).all()


def test_albert_records_edited_states_of_inner_layers_named_by_hand(stir):
    for pattern, is_edited in ((None, False), (ALBERT_LAYER, True)):
        before, after = run_edited(
            build("AlbertModel", vocab_size=60, embedding_size=16, **SIZES),
            stir,
            target_modules=pattern,
            positions="all",
        )
        assert (not torch.equal(before.hidden_states[1], after.hidden_states[1])) == is_edited
        assert not torch.equal(before.hidden_states[-1], after.hidden_states[-1])


class NoConfig(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, input_ids):
        return self.layers[0](input_ids)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("T5ForConditionalGeneration", T5_SIZES, "encoder and decoder.*Received: T5ForConditionalGeneration"),
        (
            "BartModel",
            {
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
            },
            "encoder and decoder.*Received: BartModel",
        ),
        ("ViTModel", SIZES | {"image_size": 16, "patch_size": 8}, "Received: ViTModel, which takes pixel_values"),
    ],
)
def test_models_without_one_text_are_refused_before_anything_is_changed(name, options, message):
    model = build(name, **options)
    with pytest.raises(UserError, match=message):
        get_peft_model(model, LoReftConfig(r=2, target_modules=r".*(block|layers?)\.\d+"))
    assert not any("reft" in key for key in model.state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_without_a_configuration_is_refused():
    with pytest.raises(UserError, match=r"configuration has one hidden_size.*Received: NoConfig"):
        get_peft_model(NoConfig(), LoReftConfig())


def test_a_rank_above_the_width_is_refused_before_anything_is_changed(tiny):
    model = tiny("bert")
    with pytest.raises(UserError, match=r"hidden size 32.*Received: 33"):
        get_peft_model(model, LoReftConfig(r=33))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    adapted = get_peft_model(model, LoReftConfig(r=32))
    with pytest.raises(UserError, match=r"hidden size 32.*Received: 33"):
        adapted.add_adapter("second", LoReftConfig(r=33))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("LongformerModel", SIZES | {"attention_window": 8, "max_position_embeddings": 70, "pad_token_id": 1},
         r"\(2, 9\).*Received: \(2, 16\)"),
        ("SqueezeBertModel", SIZES | {"embedding_size": 32, "q_groups": 1, "k_groups": 1, "v_groups": 1,
         "post_attention_groups": 1, "intermediate_groups": 1, "output_groups": 1}, "Received: a dict from"),
        ("XLNetModel", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, r"Received: \(9, 2\)"),
    ],
)  # fmt: skip
def test_blocks_whose_states_have_other_shapes_are_refused_by_the_forward(name, options, message):
    model = get_peft_model(build(name, vocab_size=60, **options), LoReftConfig(r=2, positions="f2+l2"))
    with pytest.raises(UserError, match=message):
        model(**make_batch())


@pytest.mark.filterwarnings("ignore:The labels hide no prompt")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BertForTokenClassification", {"num_labels": 5}),
        ("BertForMaskedLM", {}),
        ("BertForSequenceClassification", {"num_labels": 9, "problem_type": "multi_label_classification"}),
        ("LlamaForCausalLM", {"num_key_value_heads": 2}),
    ],
)
def test_labels_that_hide_no_prompt_do_not_change_what_is_edited(name, options, stir):
    batch = make_batch()
    labels = torch.full((2, 9), 3)  # as many as tokens: in multi-label classification by chance
    if name == "BertForMaskedLM":
        labels[:, :4] = -100
    model = get_peft_model(build(name, vocab_size=60, **SIZES, **options), LoReftConfig(r=2)).eval()
    stir(model)
    with torch.no_grad():
        expected = model(**batch).logits
    output = model(**batch, labels=labels.float() if "problem_type" in options else labels)
    assert torch.equal(output.logits, expected)
    output.loss.backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
