"""The edit against an independent float64 transcription of the equations, put on plain models with forward hooks."""

import copy
from functools import partial

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fedpeft.adapters import LoReftConfig
from fedpeft.adapters.reft.layer import LoReftLayer, orthonormalise_rows
from fedpeft.adapters.reft.prompt import PromptTracker
from fedpeft.backbones.blocks import find_blocks


def edit_position(h, place, places, prefix, suffix, tied, variant, R, W, b):
    """One position, by the rule in words: which intervention, if any, and the equation."""
    n, everywhere = len(places), prefix == suffix == 0
    if n < prefix + suffix:
        prefix, suffix = min(prefix, n // 2), min(suffix, -(-n // 2))
    index = places.index(place)
    if everywhere or index < prefix:
        g = 0
    elif index >= n - suffix:
        g = 0 if tied or len(R) == 1 else 1
    else:
        return h
    minus = 0 if variant == "direft" else R[g] @ h
    return h + R[g].T @ (W[g] @ h + b[g] - minus)


def oracle(model, tensors, config, places):
    """`model` in float64 with one hook a block; `tensors[block]` = (R, W, b); `places[row]` = prompt positions."""
    prefix, suffix = {"f2+l3": (2, 3), "f4": (4, 0), "l2": (0, 2), "all": (0, 0)}[config.positions]
    model = copy.deepcopy(model).double()

    def hook(block_tensors):
        def edit(block, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            rows = [list(row) for row in hidden]
            for row, row_places in zip(rows, places, strict=True):
                for p in row_places:
                    row[p] = edit_position(
                        row[p], p, row_places, prefix, suffix, config.tied, config.variant, *block_tensors
                    )
            hidden = torch.stack([torch.stack(row) for row in rows])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return edit

    for block, block_tensors in zip(find_blocks(model)[1], tensors, strict=True):
        block.register_forward_hook(hook(block_tensors))
    return model


def real_places(mask):
    return [row.nonzero().flatten().tolist() for row in mask]


CASES = [
    ("bert", "f2+l3", False, "loreft", "right"),
    ("bert", "all", False, "loreft", "right"),
    ("bert", "f2+l3", True, "noreft", "left"),
    ("mpnet", "f4", False, "direft", "right"),  # its blocks return tuples
    ("llama", "f2+l3", False, "loreft", "left"),
    ("llama", "f2+l3", True, "direft", "right"),
    ("llama", "all", False, "loreft", "left"),
    ("gpt2", "l2", False, "noreft", "right"),
]


@pytest.mark.parametrize(("architecture", "positions", "tied", "variant", "side"), CASES)
def test_outputs_and_gradients_equal_the_transcription(
    architecture, positions, tied, variant, side, tiny, stir, padded
):
    plain = tiny(architecture)
    batch = padded(side)
    config = LoReftConfig(r=4, positions=positions, tied=tied, variant=variant)
    model = get_peft_model(copy.deepcopy(plain), config)
    stir(model)
    layers = [m for m in model.modules() if isinstance(m, LoReftLayer)]
    ours = [(m.reft_R["default"], m.reft_W["default"], m.reft_b["default"]) for m in layers]
    theirs = [tuple(t.detach().double().requires_grad_() for t in triple) for triple in ours]
    reference = oracle(plain, theirs, config, real_places(batch["attention_mask"]))

    real = batch["attention_mask"].bool()
    got, want = model(**batch)[0][real], reference(**batch)[0][real]  # (real tokens, width or vocabulary)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5 * want.abs().max().item())
    assert (got - plain(**batch)[0][real]).abs().max() > 0.1 * want.abs().max()  # the edit matters

    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(3))
    (got * weights).mean().backward()
    (want * weights).mean().backward()
    for mine, theirs_triple in zip(ours, theirs, strict=True):
        for tensor, expected in zip(mine, theirs_triple, strict=True):
            scale = expected.grad.abs().max().item()
            assert scale > 0
            torch.testing.assert_close(tensor.grad.double(), expected.grad, rtol=1e-5, atol=1e-5 * scale)


def test_answers_are_not_edited_and_labels_end_the_prompt(tiny, stir, padded):
    plain, batch = tiny("llama"), padded("right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[0, :6] = -100
    labels[1, :2] = -100
    config = LoReftConfig(r=2, positions="f2+l3")
    model = get_peft_model(copy.deepcopy(plain), config)
    stir(model)
    tensors = [
        tuple(t["default"].detach().double() for t in (m.reft_R, m.reft_W, m.reft_b))
        for m in model.modules()
        if isinstance(m, LoReftLayer)
    ]
    reference = oracle(plain, tensors, config, [list(range(6)), [0, 1], [0]])  # no label hides the third's only token
    got, want = model(**batch, labels=labels), reference(**batch, labels=labels)
    torch.testing.assert_close(got.loss.double(), want.loss.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["loreft", "noreft", "direft"])
def test_the_start_is_the_identity_with_gradients(variant, tiny, padded):
    plain, batch = tiny("bert"), padded()
    model = get_peft_model(copy.deepcopy(plain), LoReftConfig(variant=variant))
    got = model(**batch)[0]
    assert torch.equal(got, plain(**batch)[0])
    got[0, 0, :5].sum().backward()
    for name, parameter in model.named_parameters():
        if ".reft_W" in name or ".reft_b" in name:
            assert parameter.grad.abs().max() > 0, name


def test_parameter_shapes_of_one_and_two_groups(tiny):
    for options, groups in (({}, 2), ({"tied": True}, 1), ({"positions": "f3"}, 1), ({"positions": "all"}, 1)):
        model = get_peft_model(tiny("bert"), LoReftConfig(r=4, **options))
        shapes = {n.split(".")[-2]: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        assert shapes == {"reft_R": (groups, 4, 32), "reft_W": (groups, 4, 32), "reft_b": (groups, 4)}


def test_retraction_keeps_what_is_orthonormal_and_mends_what_is_not():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 2, 4, 30, generator=generator, dtype=torch.float64)
    fixed = orthonormalise_rows(rows)
    torch.testing.assert_close(fixed @ fixed.mT, torch.eye(4, dtype=torch.float64).expand(5, 2, 4, 4))
    torch.testing.assert_close(orthonormalise_rows(fixed), fixed)
    # Same row space, and the triangle that relates them has a positive diagonal (Gram-Schmidt by hand).
    first = rows[..., 0, :] / rows[..., 0, :].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(fixed[..., 0, :], first)
    torch.testing.assert_close(rows @ fixed.mT @ fixed, rows)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_type = "full"
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, hidden):
        return hidden


class NoSync(TorchDispatchMode):
    """Fails when a value leaves the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("positions", ["f7+l7", "all"])
def test_no_square_tensor_and_no_value_leaves_the_device(positions):
    width, block = 512, Block()
    tracker = PromptTracker(nn.Embedding(2, 2))
    layer = LoReftLayer(block, tracker)
    layer.update_layer("default", LoReftConfig(r=4, positions=positions), width)
    hidden = torch.randn(2, 20, width, requires_grad=True)
    mask = torch.ones(2, 20, dtype=torch.long)
    sizes: list[int] = []

    def note(tensor):
        sizes.append(tensor.numel())
        return tensor

    with NoSync(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        tracker.begin(block, (), {"input_ids": mask, "attention_mask": mask})
        layer(hidden).sum().backward()
    assert sizes and max(sizes) <= hidden.numel()
    assert all(p.numel() <= 2 * 4 * width for p in layer.parameters())


def test_attributes_of_the_block_show_through_and_missing_ones_do_not():
    layer = LoReftLayer(Block(), PromptTracker(nn.Embedding(2, 2)))
    assert layer.attention_type == "full"
    with pytest.raises(AttributeError, match="sliding_window"):
        _ = layer.sliding_window


class CheckpointedBlock(Block):
    """Checkpoints itself with its hooks, as blocks of transformers up to 5.22 do."""

    def __call__(self, *args, **kwargs):
        return checkpoint(partial(super().__call__, **kwargs), *args, use_reentrant=False)


def test_a_block_recomputed_with_its_hooks_edits_the_prompt_of_its_own_forward():
    torch.manual_seed(0)
    hidden, gradients = torch.randn(1, 6, 8), []
    for block in (Block(), CheckpointedBlock()):
        torch.manual_seed(1)
        tracker = PromptTracker(nn.Embedding(2, 2))
        layer = LoReftLayer(block, tracker)
        layer.update_layer("default", LoReftConfig(r=2, positions="l1"), 8)
        loss = torch.zeros(())
        for length in (6, 3):  # the second forward begins before the first is recomputed
            mask = (torch.arange(6) < length).long().unsqueeze(0)
            tracker.begin(block, (), {"input_ids": mask, "attention_mask": mask})
            loss = loss + length * layer(hidden)[0, 0, :].sum() + layer(hidden).square().sum()
        loss.backward()
        gradients.append([layer.reft_W["default"].grad, layer.reft_b["default"].grad])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(recomputed, plain)
