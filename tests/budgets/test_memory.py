"""The memory model: its coefficients found again, its sizes against what autograd truly keeps, its directions."""

from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from transformers import BertConfig, BertModel

from fedpeft.adapters import AdaptedModel, make_lora_config
from fedpeft.backbones import SequenceClassifier
from fedpeft.budgets.memory import MARGIN, MARGIN_MIB, Point, compute_sizes, fit_memory
from fedpeft.budgets.shape import read_shape
from fedpeft.resources import ClientResources
from fedpeft.units import MIB

PLAN = [
    (192, 12, ClientResources(8)),
    (192, 12, ClientResources(8, (3, 4, 5))),
    (96, 12, ClientResources(8)),
    (192, 3, ClientResources(8)),
    (192, 12, ClientResources(8, checkpointing=True)),
    (48, 6, ClientResources(8, (5,))),
]


def test_coefficients_are_found_again_and_predict_other_points(shape, memory):
    def truth(length, rows, resources):
        trained, kept, working, maps = compute_sizes(shape, length, rows, resources)
        return memory.constant_mib + trained + memory.kept * kept + memory.working * working + memory.maps * maps

    points = [Point(length, rows, own, truth(length, rows, own), 1.0) for length, rows, own in PLAN]
    fitted = fit_memory(shape, points, memory.loading_mib, memory.libraries_mib)
    assert vars(fitted) == pytest.approx(vars(memory), rel=1e-6)
    for length, rows, resources in [(256, 16, ClientResources(8)), (32, 4, ClientResources(1, (4, 5), 0.25))]:
        exact = truth(length, rows, resources)
        with_margin = exact + MARGIN * (exact - memory.constant_mib) + MARGIN_MIB
        assert fitted.predict(shape, length, rows, resources) == pytest.approx(with_margin)


def test_coefficients_are_never_negative(shape):
    """Peaks that fall with the number of tokens are noise: nothing is predicted to save memory by growing."""
    points = [Point(length, rows, own, 700 - rows * length / 50, 1.0) for length, rows, own in PLAN]
    fitted = fit_memory(shape, points, 0.0)
    assert min(vars(fitted).values()) >= 0
    with pytest.raises(ValueError, match="Received: 3"):
        fit_memory(shape, points[:3], 0.0)


def test_a_prediction_is_never_below_the_peak_of_loading(shape, memory):
    heavy = replace(memory, loading_mib=5000.0)
    assert heavy.predict(shape, 32, 4, ClientResources(8)) == 5000.0 + MARGIN_MIB


def test_checkpointing_keeps_one_block_whole_and_the_inputs_of_all(shape):
    """Per token: a block keeps its outputs, its wide activation, three vectors and 6 ranks; 4 bytes each."""
    block = 5 * 384 + 1536 + 1536 + 3 * 384 + 6 * 8
    tokens = 4 * 12 * 192
    own = ClientResources(8, (2, 3, 4, 5))
    whole = compute_sizes(shape, 192, 12, own)
    checkpointed = compute_sizes(shape, 192, 12, replace(own, checkpointing=True))
    assert whole.kept * MIB == pytest.approx(tokens * 4 * block)
    assert checkpointed.kept * MIB == pytest.approx(tokens * (block + 4 * 384))
    assert (checkpointed.trained, checkpointed.working) == (whole.trained, whole.working)
    eager = replace(shape, attention="eager")
    maps = [compute_sizes(eager, 192, 12, replace(own, checkpointing=c)).maps for c in (False, True)]
    assert [value * MIB for value in maps] == [4 * 12 * 192**2 * 12 * depth for depth in (4, 1)]
    assert whole.maps * MIB == 4 * 12 * 192**2  # the mask alone
    assert whole.trained * MIB == 16 * shape.count_trained(own)


def test_every_setting_saves_memory(shape, memory):
    base = ClientResources(8, shape.list_top_blocks(6), 1.0, 16)
    savings = {
        "rank": replace(base, rank=4),
        "layers": replace(base, layers=shape.list_top_blocks(5)),
        "checkpointing": replace(base, checkpointing=True),
    }
    whole = memory.predict(shape, 128, 16, base)
    for setting, resources in savings.items():
        assert memory.predict(shape, 128, 16, resources) < whole, setting
    assert memory.predict(shape, 128, 8, base) < whole


def count_kept_bytes(model: AdaptedModel, rows: int, length: int) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once, parameters and buffers not counted."""
    own = {t.untyped_storage().data_ptr() for t in [*model.model.parameters(), *model.model.buffers()]}
    seen: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.ones(rows, length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.zeros(rows).long())
    assert output.loss.requires_grad  # holds the graph alive while bytes are counted
    return sum(seen.values())


@pytest.mark.parametrize(("attention", "density"), [("sdpa", 1.0), ("eager", 1.0), ("sdpa", 0.5)])
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (2, 3), (3,)])
def test_what_blocks_keep_is_what_autograd_keeps(attention, density, layers):
    """A real model's saved tensors: within a tenth of the arithmetic, without any fitting."""
    config = BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256,
        attn_implementation=attention,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = SequenceClassifier(BertModel(config, add_pooling_layer=False).eval(), num_labels=2, pooling="mean")
    model = AdaptedModel(get_peft_model(plain, make_lora_config(plain, 4, 8, layers, density=density)))
    shape = read_shape(model.model, 4, model.get_dimensions(), model.count_parameters()["head"])
    for rows, length in ((2, 64), (8, 32), (4, 128)):
        sizes = compute_sizes(shape, length, rows, ClientResources(4, layers, density))
        arithmetic = MIB * (sizes.kept + (sizes.maps if attention == "eager" else 0))
        assert count_kept_bytes(model, rows, length) == pytest.approx(arithmetic, rel=0.1)
