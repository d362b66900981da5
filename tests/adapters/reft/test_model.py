"""What every PEFT method can do, on every architecture."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import LlamaConfig, LlamaModel

from fedpeft.adapters import LoReftConfig, LoReftModel
from fedpeft.adapters.reft.layer import LoReftLayer
from fedpeft.errors import UserError

ARCHITECTURES = ("bert", "roberta", "mpnet", "llama", "qwen2", "qwen3", "mistral", "gpt2")
CONFIG = {"r": 3, "positions": "f2+l2"}


def output(model, batch):
    with torch.no_grad():
        return model(**batch)[0][batch["attention_mask"].bool()]


def blocks(model):
    return [m for m in model.modules() if isinstance(m, LoReftLayer)]


def without_dropout(model):
    """Only the blocks' training flag matters to checkpointing."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def deviation(model) -> float:
    """Largest |R R^T - I| over the model."""
    rows = torch.stack([p.detach() for m in blocks(model) for p in m.reft_R.values()])
    return (rows @ rows.mT - torch.eye(rows.shape[-2])).abs().max().item()


def train(model, batch, steps=5):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.0)
    for _ in range(steps):
        model(**batch)[0][..., :7].square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        model.base_model.retract_()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wrap_train_save_load_train_again_disable_and_unload(architecture, tiny, padded, tmp_path):
    plain, batch = tiny(architecture), padded()
    start = output(plain, batch)
    model = get_peft_model(copy.deepcopy(plain), LoReftConfig(**CONFIG))
    assert isinstance(model.base_model, LoReftModel)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 9 and all(".reft_" in name for name in trained)

    train(model, batch)
    assert deviation(model) < 1e-5
    after = output(model, batch)
    assert (after - start).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(output(model, batch), start)
    assert torch.equal(output(model, batch), after)

    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path), is_trainable=True)
    assert torch.equal(output(loaded, batch), after)
    train(loaded, batch)
    assert deviation(loaded) < 1e-5
    assert not torch.equal(output(loaded, batch), after)

    bare = loaded.unload()
    assert torch.equal(output(bare, batch), start)
    assert not any(isinstance(m, LoReftLayer) or m._forward_pre_hooks for m in bare.modules())


def test_without_retraction_the_rows_would_drift(tiny, padded):
    model = get_peft_model(tiny("bert"), LoReftConfig(**CONFIG))
    model.base_model.retract_ = lambda: None
    train(model, padded())
    assert deviation(model) > 1e-2


def test_only_loreft_is_retracted(tiny, padded):
    model = get_peft_model(tiny("bert"), LoReftConfig(**CONFIG, variant="noreft"))
    train(model, padded())
    assert deviation(model) > 1e-2


def test_state_dict_names_carry_no_adapter_name(tiny):
    model = get_peft_model(tiny("bert"), LoReftConfig(layers=[1]), adapter_name="client")
    names = list(get_peft_model_state_dict(model, adapter_name="client"))
    assert names == [f"base_model.model.encoder.layer.1.{part}" for part in ("reft_R", "reft_W", "reft_b")]


def test_two_adapters_take_turns(tiny, padded, stir, tmp_path):
    plain, batch = tiny("llama"), padded("left")
    model = get_peft_model(copy.deepcopy(plain), LoReftConfig(**CONFIG))
    stir(model)
    first = output(model, batch)
    model.add_adapter("second", LoReftConfig(r=5, positions="all", layers=[0, 2], variant="direft"))
    assert torch.equal(output(model, batch), first)  # added, not active
    model.set_adapter("second")
    assert torch.equal(output(model, batch), output(plain, batch))  # at its identity start
    stir(model, seed=5)
    second = output(model, batch)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 6 and all(n.endswith(".second") for n in trained)
    model.set_adapter("default")
    assert torch.equal(output(model, batch), first)
    assert not torch.equal(first, second)

    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path / "second"), adapter_name="second")
    assert torch.equal(output(loaded, batch), second)
    loaded.load_adapter(str(tmp_path), adapter_name="default")
    loaded.set_adapter("default")
    assert torch.equal(output(loaded, batch), first)

    model.delete_adapter("default")
    model.set_adapter("second")
    assert torch.equal(output(model, batch), second)


def test_adapters_active_together_add_their_edits(tiny, padded, stir):
    model = get_peft_model(tiny("bert"), LoReftConfig(**CONFIG, layers=[2]))
    stir(model)
    batch = padded()
    with model.disable_adapter():
        start = output(model, batch)
    first = output(model, batch) - start
    model.add_adapter("second", LoReftConfig(positions="all", layers=[2]))
    model.set_adapter("second")
    stir(model, seed=5)
    second = output(model, batch) - start
    model.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(output(model, batch) - start, first + second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "llama"])
def test_recorded_hidden_states_are_the_edited_ones(architecture, tiny, padded, stir):
    plain, batch = tiny(architecture), padded()
    before = plain(**batch, output_hidden_states=True).hidden_states  # transformers' own hooks are there first
    model = get_peft_model(plain, LoReftConfig(**CONFIG, layers=[0]))
    stir(model)
    states = model(**batch, output_hidden_states=True).hidden_states
    assert torch.equal(states[0], before[0])
    changed = (states[1] != before[1]).any(-1)  # (rows, length) where the first block's output was edited
    assert changed[0].nonzero().flatten().tolist() == [0, 1, 9, 10]


def test_one_configuration_serves_models_with_other_block_names(tiny):
    config = LoReftConfig(**CONFIG)
    for architecture in ("bert", "llama", "gpt2"):
        model = get_peft_model(tiny(architecture), config)
        assert len(blocks(model)) == 3
    assert config.target_modules is None


def test_blocks_may_be_named_by_hand(tiny):
    model = get_peft_model(tiny("bert"), LoReftConfig(target_modules=r"encoder\.layer\.1"))
    assert model.base_model.targeted_module_names == ["encoder.layer.1"]


@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2"])
def test_bfloat16_backbone_with_float32_adapters(architecture, tiny, padded, stir):
    plain, batch = tiny(architecture), padded()
    model = get_peft_model(copy.deepcopy(plain), LoReftConfig(**CONFIG))
    stir(model)
    half = get_peft_model(copy.deepcopy(plain).bfloat16(), LoReftConfig(**CONFIG))
    half.load_state_dict({k: v for k, v in model.state_dict().items() if ".reft_" in k}, strict=False)
    got = half(**batch)[0][batch["attention_mask"].bool()]
    want = output(model, batch)
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 0.05 * want.norm()
    got.float().square().mean().backward()
    for name, parameter in half.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama", "qwen2", "gpt2"])
def test_gradient_checkpointing_gives_the_same_gradients(architecture, tiny, padded, stir):
    batch = padded()
    model = get_peft_model(tiny(architecture), LoReftConfig(**CONFIG))
    stir(model)
    without_dropout(model.train())
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert all(m.get_base_layer().gradient_checkpointing for m in blocks(model))
        model.zero_grad()
        model(**batch, use_cache=False)[0].square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(checkpointed[name], gradient)


def test_autocast_keeps_the_residual_stream_in_float32(tiny, padded, stir):
    model = get_peft_model(tiny("llama"), LoReftConfig(**CONFIG))
    stir(model)
    batch = padded()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model(**batch, output_hidden_states=True).hidden_states
    assert states[1].dtype == torch.float32


def test_a_deep_copy_is_independent(tiny, padded, stir):
    model = get_peft_model(tiny("bert"), LoReftConfig(**CONFIG))
    stir(model)
    left, right = padded("left"), padded("right")
    twin = copy.deepcopy(model)
    expected = output(model, left)
    assert torch.equal(output(twin, left), expected)
    model.base_model.tracker.begin(model, (), right)  # as if a forward of the first were under way
    assert torch.equal(output(twin, left), expected)
    trackers = {id(m.tracker) for m in blocks(twin)}
    assert trackers == {id(twin.base_model.tracker)} != {id(model.base_model.tracker)}
    stir(twin, seed=9)
    assert torch.equal(output(model, left), expected)
    assert not torch.equal(output(twin, left), expected)
    assert isinstance(twin.unload(), type(model.get_base_model()))
    assert torch.equal(output(model, left), expected)


def test_merging_is_refused_and_leaves_the_model_whole(tiny, padded, stir):
    model = get_peft_model(tiny("bert"), LoReftConfig(**CONFIG))
    stir(model)
    batch = padded()
    expected = output(model, batch)
    with pytest.raises(UserError, match=r"unload\(\)"):
        model.merge_and_unload()
    assert torch.equal(output(model, batch), expected)


@pytest.mark.parametrize(
    ("width", "count", "r", "tied", "expected"),
    [
        (3072, 28, 32, False, 11_011_840),  # LLaMA-3.2-3B, printed as 11.01 M
        (3072, 28, 8, False, 2_752_960),  # printed as 2.75 M
        (4096, 32, 8, False, 4_194_816),  # LLaMA-3-8B, printed as 4.19 M
        (4096, 32, 8, True, 2_097_408),
    ],
)
def test_the_sizes_printed_in_the_fedreft_paper(width, count, r, tied, expected):
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 8, "vocab_size": 8}
    with torch.device("meta"):
        model = LlamaModel(LlamaConfig(hidden_size=width, num_hidden_layers=count, **sizes))
    wrapped = get_peft_model(model, LoReftConfig(r=r, tied=tied))
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == expected
