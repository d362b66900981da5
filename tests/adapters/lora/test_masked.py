"""LoRA that trains some rows of B, against plain LoRA and float64 models with the rows put in their places."""

import math

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model

from fedpeft.adapters import AdaptedModel, MaskedLoraConfig, find_lora_pairs, make_lora_config
from fedpeft.adapters.lora.masked import MaskedRows
from fedpeft.errors import UserError

BOTH = pytest.mark.parametrize("architecture", ["bert", "gpt2"])
LABELS = torch.tensor([0, 1, 2])


def logits(adapted, batch):
    with torch.no_grad():
        return adapted.model(**batch).logits


def drawn_rows(adapted, seed=0):
    generator, rows = torch.Generator().manual_seed(seed), {}
    for module, (d_out, _) in adapted.get_dimensions().items():
        count = len(adapted.get_rows()[module])
        rows[module] = torch.randperm(d_out, generator=generator)[:count].sort().values
    return rows


def products(adapted, rows):
    tensors, deltas = adapted.read(), {}
    for module, a, b in find_lora_pairs(adapted.names):
        full = torch.zeros(adapted.get_dimensions()[module][0], tensors[b].shape[1], dtype=torch.float64)
        for place, row in zip(rows[module].tolist(), tensors[b].double(), strict=True):
            full[place] = row
        deltas[module] = 1.5 * full @ tensors[a].double()
    return deltas


@pytest.mark.parametrize("density", [0.001, 0.25, 0.3, 1 / 3, 0.999])
def test_how_many_rows_train(density, lora_model):
    adapted = lora_model("bert", density=density)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapted.read().items()}
    for module, a, b in find_lora_pairs(adapted.names):
        d_out, d_in = adapted.get_dimensions()[module]
        count = max(1, math.ceil(density * d_out - 1e-9))
        assert shapes[a] == (2, d_in) and shapes[b] == (count, 2)
        assert torch.equal(adapted.get_rows()[module], torch.arange(count))
    assert adapted.count_parameters()["adapter"] == sum(
        math.prod(shape) for name, shape in shapes.items() if ".lora_" in name
    )


def test_a_share_that_rounding_lifts_over_a_whole_number_takes_no_row_more():
    assert 0.07 * 100 > 7
    assert MaskedRows(torch.zeros(100, 2), 0.07).weight.shape == (7, 2)


@BOTH
def test_logits_are_those_of_the_rows_in_their_places(architecture, lora_model, dense_oracle, padded):
    adapted, batch = lora_model(architecture, density=0.3), padded()
    first = logits(adapted, batch)
    rows = drawn_rows(adapted)
    adapted.set_rows(rows)
    with torch.no_grad():
        expected = dense_oracle(architecture, adapted, products(adapted, rows))(**batch).logits
    torch.testing.assert_close(logits(adapted, batch), expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(logits(adapted, batch), first)
    assert all(torch.equal(adapted.get_rows()[module], chosen) for module, chosen in rows.items())


@BOTH
def test_gradients_are_those_rows_of_plain_loras_gradient(architecture, lora_model, padded):
    adapted, plain, batch = lora_model(architecture, density=0.3), lora_model(architecture), padded()
    rows = drawn_rows(adapted)
    adapted.set_rows(rows)
    values, full = adapted.read(), plain.read()
    for module, a, b in find_lora_pairs(adapted.names):
        full[a] = values[a]
        full[b] = torch.zeros_like(full[b]).index_copy(0, rows[module], values[b])
    plain.write(full | {name: tensor for name, tensor in values.items() if "classifier" in name})
    for model in (adapted, plain):
        model.model(**batch, labels=LABELS).loss.backward()
    got, wanted = ({n: p.grad for n, p in zip(s.names, s.parameters(), strict=True)} for s in (adapted, plain))
    for module, _, b in find_lora_pairs(adapted.names):
        assert got[b].shape == values[b].shape, "a gradient exists for the chosen rows alone"
        wanted[b] = wanted[b][rows[module]]
    for name in adapted.names:
        tolerance = 1e-4 * float(wanted[name].abs().max()) + 1e-8
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-3, atol=tolerance)


@BOTH
def test_at_density_one_it_is_plain_lora_bit_for_bit(architecture, tiny_classifier, padded):
    batch, models = padded(), []
    for masked in (False, True):
        backbone = tiny_classifier(architecture)
        config = make_lora_config(backbone, r=2, alpha=3)
        assert not isinstance(config, MaskedLoraConfig)
        if masked:
            kept = ("r", "lora_alpha", "target_modules", "fan_in_fan_out", "modules_to_save")
            config = MaskedLoraConfig(density=1.0, **{name: getattr(config, name) for name in kept})
        torch.manual_seed(3)
        models.append(AdaptedModel(get_peft_model(backbone, config)))
    plain, full = models
    assert plain.names == full.names
    for _ in range(3):
        for adapted in models:
            adapted.model(**batch, labels=LABELS).loss.backward()
            with torch.no_grad():
                for parameter in adapted.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    assert all(torch.equal(plain.read()[name], tensor) for name, tensor in full.read().items())
    assert torch.equal(logits(plain, batch), logits(full, batch))


def test_equal_seeds_give_equal_starts_of_a(tiny_classifier):
    starts = []
    for density in (1.0, 0.5):
        backbone = tiny_classifier("bert")
        config = make_lora_config(backbone, r=2, alpha=3, density=density)
        torch.manual_seed(3)
        starts.append(AdaptedModel(get_peft_model(backbone, config)).read())
    assert all(torch.equal(t, starts[1][name]) for name, t in starts[0].items() if "lora_B" not in name)
    assert not any(t.any() for name, t in starts[1].items() if "lora_B" in name)


def test_what_is_wrong_is_refused_before_anything_is_changed(lora_model):
    adapted = lora_model("bert", density=0.1)  # 4 of 32 rows, 5 of 48
    before, good = adapted.get_rows(), drawn_rows(adapted)
    module = list(good)[-1]
    cases = {
        r"Received: nonsense$": {"nonsense": torch.arange(4)},
        r"takes 4 rows .*Received: torch.int64 \(3,\)$": {module: torch.arange(3)},
        r"Received: torch.int32 \(4,\)$": {module: torch.arange(4, dtype=torch.int32)},
        r"ascending, each once. Received: \[1, 0, 2, 3\]$": {module: torch.tensor([1, 0, 2, 3])},
        r"Received: \[1, 1, 2, 3\]$": {module: torch.tensor([1, 1, 2, 3])},
        r"rows 0 to 31.*Received: \[1, 2, 3, 32\]$": {module: torch.tensor([1, 2, 3, 32])},
        r"Received: \[-1, 2, 3, 4\]$": {module: torch.tensor([-1, 2, 3, 4])},
    }
    for message, rows in cases.items():
        with pytest.raises(ValueError, match=message):
            adapted.set_rows(good | rows)
        assert all(torch.equal(adapted.get_rows()[name], chosen) for name, chosen in before.items())
    with pytest.raises(ValueError, match="Received"):
        lora_model("bert").set_rows(good)
    assert lora_model("bert").get_rows() == {}


def test_clones_and_copies_are_independent(lora_model, padded):
    adapted, batch = lora_model("bert", density=0.3), padded()
    before, twin = logits(adapted, batch), adapted.clone()
    assert torch.equal(logits(twin, batch), before)
    rows = drawn_rows(twin)
    twin.set_rows(rows)
    got = logits(twin, batch)
    assert torch.equal(logits(adapted, batch), before) and not torch.equal(got, before)
    next(iter(rows.values())).zero_()
    next(iter(twin.get_rows().values())).zero_()
    assert torch.equal(logits(twin, batch), got)
    twin.set_rows({})
    assert torch.equal(logits(twin, batch), got)


def test_a_snapshot_carries_the_rows(lora_model, factors, padded):
    adapted, batch = lora_model("bert", density=0.3), padded()
    adapted.set_frozen_delta(factors(adapted, 2))
    adapted.set_rows(drawn_rows(adapted, seed=1))
    kept, got = adapted.snapshot(), logits(adapted, batch)
    adapted.set_rows(drawn_rows(adapted, seed=2))
    assert not torch.equal(logits(adapted, batch), got)
    adapted.restore(kept)
    assert torch.equal(logits(adapted, batch), got)


@BOTH
def test_training_moves_the_chosen_rows_and_no_backbone(architecture, lora_model, padded):
    adapted, batch = lora_model(architecture, density=0.3), padded()
    adapted.set_rows(drawn_rows(adapted))
    frozen = [(p, p.detach().clone()) for p in adapted.model.parameters() if not p.requires_grad]
    optimiser = torch.optim.AdamW(adapted.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        loss = adapted.model(**batch, labels=LABELS).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(p, before) for p, before in frozen)
    held = sum(t.numel() for state in optimiser.state.values() for t in state.values() if t.dim() > 0)
    assert held == 2 * sum(p.numel() for p in adapted.parameters())


def test_on_a_bfloat16_backbone(lora_model, padded):
    adapted, batch = lora_model("bert", dtype=torch.bfloat16, density=0.3), padded()
    assert {t.dtype for t in adapted.read().values()} == {torch.float32}
    adapted.model(**batch, labels=LABELS).loss.backward()
    assert all(p.grad.isfinite().all() for p in adapted.parameters())


def test_peft_saves_and_loads_it_rows_included(lora_model, tiny_classifier, padded, tmp_path):
    adapted, batch = lora_model("bert", density=0.3), padded()
    adapted.set_rows(drawn_rows(adapted))
    adapted.model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(tiny_classifier("bert"), str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, logits(adapted, batch))


def test_what_masks_cannot_do_is_said(tiny_classifier, lora_model):
    for density in (0.0, -0.1, 1.01):
        with pytest.raises(UserError, match=rf"^density: .*Received: {density}$"):
            make_lora_config(tiny_classifier("bert"), r=2, alpha=4, density=density)
    with pytest.raises(UserError, match="convert_to_lora"):
        lora_model("bert", density=0.5).model.merge_and_unload()


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": False},
        {"target_parameters": ["experts.weight"]},
        {"layer_replication": [(0, 2)]},
        {"alora_invocation_tokens": [1]},
        {"trainable_token_indices": [1]},
    ],
)
def test_what_needs_a_whole_b_is_refused_by_its_name(options):
    with pytest.raises(UserError, match=f"^Masked LoRA trains rows of a plain B.*Received: {next(iter(options))}="):
        MaskedLoraConfig(density=0.5, target_modules=["query"], **options)


def test_a_loaded_configuration_and_the_plain_ones_of_lora_are_taken(tmp_path):
    config = MaskedLoraConfig(
        density=0.5, target_modules=["query"], init_lora_weights="gaussian", use_rslora=True, rank_pattern={"query": 3}
    )
    config.save_pretrained(str(tmp_path))
    assert PeftConfig.from_pretrained(str(tmp_path)) == config


def test_layers_that_are_not_linear_are_refused(tiny):
    with pytest.raises(UserError, match=r"^target_modules: .*Received: embeddings.word_embeddings, a Embedding"):
        get_peft_model(tiny("bert"), MaskedLoraConfig(density=0.5, target_modules=["word_embeddings"]))


def test_weighted_sums_of_masked_adapters_are_refused(lora_model):
    model = lora_model("bert", density=0.5).model
    with pytest.raises(UserError, match="convert_to_lora"):
        model.add_weighted_adapter(["default"], [0.5], "sum")
    assert list(model.peft_config) == ["default"]
