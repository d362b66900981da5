"""LoReFT as a kind: R neither decays nor leaves orthonormal rows, and the prompt can be given."""

import pytest
import torch
from peft import get_peft_model

from fedpeft.adapters import AdaptedModel, LoReftConfig
from fedpeft.adapters.reft.kind import ReftKind


@pytest.fixture
def reft_model(tiny_classifier, stir):
    """reft_model(variant="noreft") -> an adapted BERT that edits 2 first and 3 last positions."""

    def build(**options):
        config = LoReftConfig(r=3, positions="f2+l3", modules_to_save=["classifier"], **options)
        model = get_peft_model(tiny_classifier("bert"), config)
        stir(model)
        return AdaptedModel(model)

    return build


@pytest.mark.parametrize("variant", ["loreft", "noreft", "direft"])
def test_all_but_r_decays(variant, reft_model):
    model = reft_model(variant=variant)
    assert isinstance(model.kind, ReftKind)
    kept = {name for name in model.names if not model.kind.is_decayed(name)}
    assert kept == {f"base_model.model.backbone.encoder.layer.{block}.reft_R" for block in range(3)}


def test_retraction_makes_r_orthonormal_and_touches_nothing_else(reft_model):
    model = reft_model()
    before = model.read()
    model.write({name: 3 * tensor for name, tensor in before.items() if "reft_R" in name})
    model.retract_()
    for name, tensor in model.read().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-6 if "reft_R" in name else 0)


def test_inside_use_prompt_the_given_tokens_are_edited_and_afterwards_the_whole_text(reft_model, padded):
    model, batch = reft_model(), padded()
    prompt = batch["attention_mask"].bool()
    prompt[:, 4:] = False  # of the first text 4 of 11 tokens, of the others all
    with torch.no_grad():
        whole = model.model(**batch).logits
        with model.use_prompt(prompt):
            given = model.model(**batch).logits
        assert torch.equal(model.model(**batch).logits, whole)
    assert not torch.equal(given[0], whole[0])
    torch.testing.assert_close(given[1:], whole[1:], rtol=1e-5, atol=1e-5)


def test_an_error_inside_use_prompt_ends_it(reft_model, padded):
    model, batch = reft_model(), padded()
    with torch.no_grad():
        expected = model.model(**batch).logits
        with pytest.raises(RuntimeError, match="midway"), model.use_prompt(torch.zeros(3, 11, dtype=torch.bool)):
            raise RuntimeError("midway")
        assert torch.equal(model.model(**batch).logits, expected)


def test_the_model_itself_is_exported(reft_model):
    model = reft_model()
    assert model.kind.make_exportable(model) is model.model
