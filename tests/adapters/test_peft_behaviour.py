"""What users of PEFT expect of an adapter, for ours with PEFT's LoRA as the control."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import AutoModel, AutoModelForCausalLM

from fedpeft.adapters import LoReftConfig, make_experts_config, make_lora_config
from fedpeft.errors import UserError

KINDS = {
    "lora": PeftType.LORA, "masked": PeftType("MASKED_LORA"), "loreft": PeftType("LOREFT"),
    "router": PeftType("LORA_EXPERTS"), "similarity": PeftType("LORA_EXPERTS"),
}  # fmt: skip
OURS = ["masked", "loreft", "router", "similarity"]
ARCHITECTURES = ["bert", "llama"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def make_config(kind, model, r=2, **options):
    if kind == "loreft":
        return LoReftConfig(r=r, positions="f2+l2", **options)
    if kind in ("router", "similarity"):
        return replace(make_experts_config(model, r, 3, 2, kind), **options)
    config = make_lora_config(model, r=r, alpha=3, density=0.4 if kind == "masked" else 1.0)
    for name, value in options.items():
        setattr(config, name, value)
    return config


@pytest.fixture
def wrapped(tiny, stir):
    """wrapped("loreft", "bert") -> a PEFT model away from its start, in eval mode."""

    def build(kind, architecture="llama", seed=1, **options):
        model = tiny(architecture)
        peft = get_peft_model(model, make_config(kind, model, **options)).eval()
        stir(peft, seed=seed)
        return peft

    return build


@torch.no_grad()
def output(model, batch):
    return model(**batch)[0][batch["attention_mask"].bool()]


def count_training(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@every_kind
@every_architecture
def test_saved_and_loaded_by_peft(kind, architecture, wrapped, tiny, padded, tmp_path):
    model, batch = wrapped(kind, architecture), padded()
    model.save_pretrained(str(tmp_path))
    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = PeftModel.from_pretrained(tiny(architecture), str(tmp_path), **options)
        assert torch.equal(output(loaded, batch), output(model, batch))
        assert count_training(loaded) == 0
    loaded = PeftModel.from_pretrained(tiny(architecture), str(tmp_path), is_trainable=True)
    assert count_training(loaded) == count_training(model) > 0


@every_kind
@every_architecture
def test_loaded_by_transformers(kind, architecture, wrapped, tiny, padded, tmp_path):
    model, batch = wrapped(kind, architecture), padded()
    tiny(architecture).save_pretrained(str(tmp_path / "base"))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(str(tmp_path / "adapter"))
    plain = tiny(architecture)
    plain.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(output(plain, batch), output(model, batch))
    factory = AutoModelForCausalLM if architecture == "llama" else AutoModel
    whole = factory.from_pretrained(str(tmp_path / "adapter")).eval()
    assert torch.equal(output(whole, batch), output(model, batch))


@every_kind
@every_architecture
def test_disabled_it_is_the_plain_model_and_unloaded_too(kind, architecture, wrapped, tiny, padded):
    model, batch = wrapped(kind, architecture), padded()
    plain, adapted = output(tiny(architecture), batch), output(model, batch)
    assert not torch.equal(adapted, plain)
    with model.disable_adapter():
        assert torch.equal(output(model, batch), plain)
    assert torch.equal(output(model, batch), adapted)
    assert torch.equal(output(model.unload(), batch), plain)


def test_lora_merges(wrapped, padded):
    model, batch = wrapped("lora"), padded()
    expected = output(model, batch)
    torch.testing.assert_close(output(model.merge_and_unload(), batch), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_ours_refuse_to_merge_and_stay_whole(kind, merge, wrapped, padded):
    model, batch = wrapped(kind), padded()
    expected = output(model, batch)
    with pytest.raises(UserError, match="merge"):
        getattr(model, merge)()
    assert torch.equal(output(model, batch), expected)


@every_kind
def test_several_adapters_take_turns(kind, wrapped, tiny, stir, padded, tmp_path):
    model, batch = wrapped(kind), padded()
    first = output(model, batch)
    model.add_adapter("second", make_config(kind, tiny("llama"), r=3))
    assert torch.equal(output(model, batch), first)
    model.set_adapter("second")
    stir(model, seed=5)
    second = output(model, batch)
    assert not torch.equal(first, second)
    model.set_adapter("default")
    assert torch.equal(output(model, batch), first)
    model.save_pretrained(str(tmp_path))
    model.load_adapter(str(tmp_path / "second"), adapter_name="third")
    model.set_adapter("third")
    assert torch.equal(output(model, batch), second)
    model.delete_adapter("default")
    assert torch.equal(output(model, batch), second)


@every_kind
def test_the_status_names_the_kind(kind, wrapped):
    status = wrapped(kind).get_model_status()
    assert status.peft_types == {"default": KINDS[kind].value}
    assert (status.enabled, status.active_adapters, status.merged_adapters) == (True, ["default"], [])
    # Of an adapter by similarity some tensors never train, which PEFT calls irregular.
    assert status.requires_grad == {"default": "irregular" if kind == "similarity" else True}


@every_kind
def test_hotswap_is_loras_alone(kind, wrapped, padded, tmp_path):
    model, other, batch = wrapped(kind), wrapped(kind, seed=7), padded()
    other.save_pretrained(str(tmp_path))
    if kind == "lora":
        hotswap_adapter(model, str(tmp_path), adapter_name="default", torch_device="cpu")
        assert torch.equal(output(model, batch), output(other, batch))
    else:
        with pytest.raises(ValueError, match=f"only supports LORA.* but {KINDS[kind].value} was passed"):
            hotswap_adapter(model, str(tmp_path), adapter_name="default", torch_device="cpu")


@every_kind
def test_a_mixed_model_takes_lora_alone(kind, tiny):
    model = tiny("bert")
    if kind == "lora":
        assert count_training(get_peft_model(model, make_config(kind, model), mixed=True))
    else:
        with pytest.raises(ValueError, match=f"'{KINDS[kind].value}' is not compatible"):
            get_peft_model(model, make_config(kind, model), mixed=True)


@every_kind
def test_modules_to_save_train_and_travel(kind, wrapped, tiny, padded, tmp_path):
    model, batch = wrapped(kind, modules_to_save=["lm_head"]), padded()
    model.save_pretrained(str(tmp_path))
    assert torch.equal(output(PeftModel.from_pretrained(tiny("llama"), str(tmp_path)), batch), output(model, batch))
    without = wrapped(kind)
    assert count_training(model) - count_training(without) == without.get_base_model().lm_head.weight.numel()


@every_kind
def test_generation_with_and_without_cache(kind, wrapped, padded):
    model, batch = wrapped(kind), padded("left")
    texts = [model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*texts)


@every_kind
def test_a_batch_over_several_adapters(kind, wrapped, tiny, padded):
    model, batch = wrapped(kind), padded()
    model.add_adapter("second", make_config(kind, tiny("llama")))
    names = ["second", "default", "second"]
    if kind in ("loreft", "router", "similarity"):
        with pytest.raises(UserError, match="adapter_names"):
            model(**batch, adapter_names=names)
        return
    with torch.no_grad():
        rows = model(**batch, adapter_names=names).logits
        torch.testing.assert_close(rows[1], model(**batch).logits[1], rtol=1e-4, atol=1e-4)


@every_kind
@every_architecture
def test_two_checkpointed_forwards_before_one_backward(kind, architecture, wrapped, padded):
    model, left, right = wrapped(kind, architecture), padded("left"), padded("right", seed=9)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    results = []
    for checkpoints in (False, True):
        if checkpoints:
            model.gradient_checkpointing_enable()
        losses = [model(**batch, use_cache=False)[0].square().mean() for batch in (left, right)]
        results.append(torch.autograd.grad(sum(losses), [p for p in model.parameters() if p.requires_grad]))
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


@every_kind
def test_train_and_eval_reach_every_module(kind, wrapped):
    model = wrapped(kind)
    for mode in (True, False):
        assert all(module.training == mode for module in model.train(mode).modules())


@every_kind
def test_a_deep_copy_is_the_same_and_its_own(kind, wrapped, stir, padded):
    model, batch = wrapped(kind), padded()
    expected = output(model, batch)
    twin = copy.deepcopy(model)
    assert torch.equal(output(twin, batch), expected)
    stir(twin, seed=3)
    assert torch.equal(output(model, batch), expected)
    assert not torch.equal(output(twin, batch), expected)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("masked", "init_lora_weights", "pissa"), ("masked", "density", 7.0), ("loreft", "variant", "x"),
     ("loreft", "r", "4"), ("router", "gate", "x"), ("similarity", "experts", 3)],
)  # fmt: skip
def test_a_configuration_changed_after_it_was_made_is_checked_again(kind, field, value, wrapped, tiny):
    config, model = make_config(kind, tiny("bert")), wrapped(kind, "bert")
    setattr(config, field, value)
    for make in (lambda: get_peft_model(tiny("bert"), config), lambda: model.add_adapter("second", config)):
        with pytest.raises(UserError, match=f"(^{field}: |Received: {field}=)"):
            make()
