"""What a kind of adapter does unless it says otherwise."""

import torch

from fedpeft.adapters.kind import AdapterKind


def test_by_default_everything_decays_and_nothing_is_constrained(lora_model):
    kind, model = AdapterKind(), lora_model("bert")
    assert all(kind.is_decayed(name) for name in (*model.names, "base_model.model.layers.0.reft_R"))
    before = model.read()
    kind.retract_(model.model.base_model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.read().items())


def test_by_default_a_prompt_changes_nothing(lora_model, padded):
    kind, model, batch = AdapterKind(), lora_model("bert"), padded()
    with torch.no_grad():
        expected = model.model(**batch).logits
        with kind.use_prompt(model.model.base_model, torch.zeros(3, 11, dtype=torch.bool)):
            assert torch.equal(model.model(**batch).logits, expected)


def test_by_default_the_model_itself_is_exported(lora_model):
    model = lora_model("bert")
    assert AdapterKind().make_exportable(model) is model.model
