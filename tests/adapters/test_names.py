import torch

from fedpeft.adapters import find_interventions, find_lora_pairs, get_frozen_delta_names, is_head, take_head
from fedpeft.adapters import names as tensor_names


def test_interventions_come_in_the_order_of_the_blocks():
    names = [f"m.layers.{i}.reft_{part}" for i in (10, 2, 0) for part in ("b", "R", "W")] + ["m.classifier.weight"]
    assert find_interventions(sorted(names)) == [
        tuple(f"m.layers.{i}.reft_{part}" for part in ("R", "W", "b")) for i in (0, 2, 10)
    ]
    assert find_interventions(["m.layers.0.lora_A.weight"]) == []


def test_lora_pairs_come_in_the_order_of_the_blocks():
    modules = [f"m.layers.{i}.{inner}" for i in (10, 2, 0) for inner in ("value", "query")]
    names = [f"{module}.lora_{part}.weight" for module in modules for part in "BA"] + ["m.classifier.weight"]
    assert find_lora_pairs(names) == [
        (f"m.layers.{i}.{inner}", f"m.layers.{i}.{inner}.lora_A.weight", f"m.layers.{i}.{inner}.lora_B.weight")
        for i in (0, 2, 10)
        for inner in ("query", "value")
    ]
    assert find_lora_pairs(["m.layers.0.reft_R", "m.layers.0.merged_A"]) == []


def test_is_head_of_lora_reft_merged_and_head_names():
    assert not is_head("base_model.model.backbone.layer.0.reft_R")
    assert not is_head("base_model.model.backbone.layer.0.query.lora_A.weight")
    assert not any(is_head(name) for name in get_frozen_delta_names("base_model.model.backbone.layer.0.query"))
    assert is_head("base_model.model.classifier.weight")


def test_take_head_keeps_the_tensors_of_the_head_alone_in_their_order():
    bias, weight, other = torch.zeros(2), torch.ones(2, 3), torch.ones(1)
    tensors = {"m.classifier.bias": bias, "m.query.lora_A.weight": other, "m.classifier.weight": weight}
    tensors |= dict.fromkeys(get_frozen_delta_names("m.query"), other) | {"m.layers.0.reft_R": other}
    head = take_head(tensors)
    assert list(head) == ["m.classifier.bias", "m.classifier.weight"]
    assert head["m.classifier.bias"] is bias and head["m.classifier.weight"] is weight


def test_an_added_prefix_is_no_heads(monkeypatch):
    monkeypatch.setattr(tensor_names, "_prefixes", set(tensor_names._prefixes))  # the real set stays as it is
    name = "base_model.model.layers.0.query.scaled_l"
    assert is_head(name)
    tensor_names.add_prefix("scaled_")
    assert not is_head(name) and is_head("base_model.model.classifier.scale")


def test_the_rows_of_a_masked_module_have_a_name_of_their_own():
    assert tensor_names.get_rows_name("m.query") == "m.query.lora_rows"
    assert not is_head(tensor_names.get_rows_name("m.query"))
